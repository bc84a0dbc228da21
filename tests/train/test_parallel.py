"""Training steps do not know how many devices there are, and survive numbers that are not finite."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.cache import compilations
from macejax.config import LossConfig, OptimizerConfig, ScheduleConfig
from macejax.potential import predict
from macejax.train.loss import loss_terms
from macejax.train.optimizer import make_optimizer
from macejax.train.parallel import is_step, make_eval_step, make_train_step
from macejax.train.schedule import observe_validation, set_learning_rate
from macejax.train.state import begin_stage, end_epoch, eval_params, init_state, record_validation
from tests.train.toy import graphs, init_params, sharded, site_energy, structures

SAME_ON_ANY_DEVICES = 1e-10  # relative to the largest entry of each array, after 20 steps in float64
ROUNDED = 1e-5  # the same in float32
REPOSITORY = Path(__file__).resolve().parents[2]
LOSS = loss_terms(LossConfig())


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.train.worker", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(processes: list[subprocess.Popen[str]]) -> None:
    try:
        for process in processes:
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """What one process found, by number of devices."""
    out = tmp_path_factory.mktemp("one") / "found.json"
    finish([start(out, 1, 2, 4)])
    return json.loads(out.read_text())


def assert_same(found: dict, reference: dict, tolerance: float = SAME_ON_ANY_DEVICES) -> None:
    for name in ("losses", "validation", "forces"):
        np.testing.assert_allclose(found[name], reference[name], rtol=tolerance)
    assert found["state"].keys() == reference["state"].keys()
    for name, expected in reference["state"].items():
        np.testing.assert_allclose(found["state"][name], expected, rtol=0, atol=tolerance * np.max(np.abs(expected)), err_msg=name)


@pytest.mark.multiprocess
def test_any_number_of_devices_gives_the_same_state(one_process):
    """T12: parameters, moments, average and losses of 20 steps; with four devices one has nothing but padding."""
    reference = one_process["1"]
    for count in ("2", "4"):
        assert_same(one_process[count], reference)
    assert reference["losses"][-1] < 0.9 * reference["losses"][1]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_any_number_of_devices_gives_the_same_state_in_float32(tmp_path):
    finish([start(tmp_path / "found.json", 1, 2, 4, "--dtype", "float32")])
    found = json.loads((tmp_path / "found.json").read_text())
    for count in ("2", "4"):
        assert_same(found[count], found["1"], ROUNDED)


@pytest.mark.thorough
@pytest.mark.multiprocess
def test_two_processes_give_the_same_state(one_process, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    finish([start(out, 4, "--rank", rank, port) for rank, out in enumerate(outs)])
    for out in outs:
        assert_same(json.loads(out.read_text())["4"], one_process["1"])


@pytest.fixture(scope="module")
def setting():
    params = init_params()
    optimizer = make_optimizer(OptimizerConfig(), params, 3)
    step = make_train_step(site_energy, LOSS, optimizer, ema_decay=0.99, num_devices=1)
    return optimizer, step, sharded(graphs(structures(3)), 1)


def poisoned(batch, kind: str):
    if kind == "positions":
        return batch._replace(nodes=batch.nodes | {"positions": np.full_like(batch.nodes["positions"], np.nan)})
    if kind == "label":
        return batch._replace(globals=batch.globals | {"energy": np.full_like(batch.globals["energy"], np.nan)})
    forces = batch.nodes["forces"].copy()
    forces[0, 0, 0] = 1e200  # finite, and so is its residual, but not its square
    return batch._replace(nodes=batch.nodes | {"forces": forces})


@pytest.mark.parametrize("kind", ["positions", "label", "force"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(kind, setting):
    """T6: nothing but counters changes, the next good step is as if it had not been."""
    optimizer, step, batch = setting
    state, info = step(init_state(init_params(), optimizer, ema=True), batch)
    assert bool(info["finite"]) and int(info["skipped"]) == 0
    before = jax.device_get(state)
    for count in (1, 2):
        state, info = step(state, poisoned(batch, kind))
        assert not bool(info["finite"]) and int(info["consecutive_skipped"]) == int(info["skipped"]) == count
        assert max(info["suspects"][0].tolist()) >= 0
    after = jax.device_get(state)
    assert (after.step, after.position, after.skipped, after.consecutive_skipped) == (3, 3, 2, 2)
    counters = {name: getattr(before, name) for name in ("step", "position", "skipped", "consecutive_skipped")}
    jax.tree.map(np.testing.assert_array_equal, after._replace(**counters), before)
    resumed, info = step(state, batch)
    assert (int(info["skipped"]), int(info["consecutive_skipped"])) == (2, 0)
    expected, _ = step(jax.tree.map(jnp.asarray, before), batch)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, expected.params)


def test_a_gradient_that_is_not_finite_is_seen(setting):
    """A loss that is finite with a slope that is not: a root at its end."""

    def cusp(params, vectors, graph):
        weight = params["params"]["readout_0"]["linear"]
        return site_energy(params, vectors, graph) + jnp.sum(jnp.sqrt(weight - jax.lax.stop_gradient(weight)))

    optimizer, _, batch = setting
    step = make_train_step(cusp, LOSS, optimizer, num_devices=1)
    state, info = step(init_state(init_params(), optimizer), batch)
    assert np.isfinite(info["loss"]) and not np.isfinite(info["grad_norm"]) and not bool(info["finite"])
    jax.tree.map(np.testing.assert_array_equal, state.params, init_params())


def test_the_state_goes_in_and_is_gone(setting):
    optimizer, step, batch = setting
    state, info = step(init_state(init_params(), optimizer, ema=True), batch)
    step(state, batch)
    assert int(info["skipped"]) == 0 and np.isfinite(info["learning_rate"]), "infos may be read later"
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state)))


def test_one_program_whatever_the_host_does_between_steps(setting):
    """Validations, epochs, stages and restored states do not compile anything again."""
    optimizer, step, batch = setting
    plateau = ScheduleConfig()
    state, _ = step(init_state(init_params(), optimizer, ema=True), batch)
    with compilations() as made:
        state, _ = step(record_validation(end_epoch(state), 1.0), batch)
        state, _ = step(state._replace(opt_state=observe_validation(state.opt_state, 1.0, plateau)), batch)
        state, _ = step(begin_stage(state, 1, set_learning_rate(state.opt_state, 1e-3)), batch)
        state, info = step(jax.tree.map(np.asarray, state), batch)
    assert not [program for program in made if is_step(program)]
    np.testing.assert_allclose(info["learning_rate"], 1e-3)


@pytest.mark.x32
def test_float32_stays_float32():
    """With x64 on and off: no leaf of the state changes its type, and the loss is that of the parameters."""
    params = init_params(dtype=np.float32)
    optimizer = make_optimizer(OptimizerConfig(schedule=ScheduleConfig(kind="cosine")), params, 3, 5)
    state = init_state(params, optimizer, ema=True)
    types = jax.tree.map(lambda x: x.dtype, state)
    step = make_train_step(site_energy, loss_terms(LossConfig(kind="universal")), optimizer, ema_decay=0.99, num_devices=1)
    batch = sharded(graphs(structures(3)), 1, dtype=np.float32)
    state, first = step(state, batch)
    state, info = step(state, batch)
    assert jax.tree.map(lambda x: x.dtype, state) == types
    assert info["loss"].dtype == np.float32 and bool(info["finite"]) and float(info["loss"]) < float(first["loss"])


def test_moving_average_must_be_meant(setting):
    optimizer, step, batch = setting
    with pytest.raises(ValueError, match="belong together"):
        step(init_state(init_params(), optimizer), batch)


def test_evaluation_is_prediction(setting):
    optimizer, _, batch = setting
    params = eval_params(init_state(init_params(), optimizer))
    found = make_eval_step(site_energy, LOSS, num_devices=1)(params, batch)
    single = jax.tree.map(lambda x: x[0], batch)
    expected = jax.jit(lambda: predict(site_energy, params, single))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-12, atol=1e-12), found.prediction, expected)
    assert found.index.tolist() == [[0, 1, 2, -1]] and found.errors["forces"].count.shape == (1, 4)


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="1000 devices are asked for"):
        make_train_step(site_energy, LOSS, make_optimizer(OptimizerConfig(), init_params(), 3), num_devices=1000)
