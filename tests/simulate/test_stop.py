"""A signal ends a run between steps, with all that is needed to go on; `macejax md` in a process of its own, whom SIGTERM reaches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

import macejax
from macejax.simulate import Calculator, Ensemble, run_many, run_md, run_on_device
from tests.simulate.toy import LATTICE, morse, toy_model

FOREVER = "100000000"  # steps


def copper():
    return bulk("Cu", cubic=True, a=LATTICE)


def after(calls: int):
    """A `stop` that says so when it has been asked more than `calls` times."""
    asked = []
    return lambda: asked.append(1) or ("SIGTERM" if len(asked) > calls else None)


def save_copper(folder: Path) -> None:
    config = macejax.ModelConfig(elements=(29,), e0s=(-1.0,), cutoff=3.0, hidden_irreps="2x0e", l_max=1, correlation=1, radial_mlp=(4,))
    macejax.save(folder / "m.model", macejax.init_model(config, jax.random.key(0), np.float64))
    write(folder / "cu.xyz", copper())


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """`macejax md` of copper."""
    command = [sys.executable, "-m", "macejax.cli.main", "md", "m.model", "cu.xyz", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(macejax.__file__).parents[1])}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], log: Path) -> tuple[str, str]:
    """SIGTERM, when the log has three lines; what the process then says."""
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=300)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    """Stopped after three chunks, in between two frames: what is seen, and where it ends, is what one go gives."""
    options = {"site_energy": morse, "every": 4, "chunk": 5, "seed": 1}
    ensemble, state = Ensemble("nvt", 2.0, 400.0), tmp_path / "md.state"
    whole, halves = copper(), copper()
    expected: list = []
    assert run_on_device(toy_model(), whole, 20, ensemble, observe=lambda _, seen: expected.append(seen.step), **options).stopped == ""
    steps: list = []
    options |= {"observe": lambda _, seen: steps.append(seen.step), "state_file": state}
    first = run_on_device(toy_model(), halves, 20, ensemble, stop=after(3), **options)
    assert first.stopped == "SIGTERM" and first.thermo.step == 8 and steps == [0, 4, 8]
    run_on_device(toy_model(), halves, 20, ensemble, restart=True, stop=after(2), **{**options, "every": 100})
    run_on_device(toy_model(), halves, 20, ensemble, restart=True, **options)
    np.testing.assert_array_equal(halves.positions, whole.positions)
    assert sorted({*steps, 12}) == expected


def test_without_a_state_the_last_step_is_shown():
    for run, options in ((run_on_device, {"site_energy": morse, "chunk": 3, "ensemble": Ensemble("nve", 1.0, 300.0)}), (run_md, {})):
        atoms, seen = copper(), []
        options |= {"every": 100, "observe": lambda _, state, seen=seen: seen.append(state.step), "stop": after(2)}
        if run is run_md:
            atoms.calc = Calculator(toy_model(), site_energy=morse)
            assert run_md(atoms, 50, temperature=300.0, **options).step == 2 and seen == [0, 2]
        else:
            assert run_on_device(toy_model(), atoms, 50, **options).thermo.step == 6 and seen == [0, 6]


def test_many_end_where_they_are_and_can_go_on():
    """The first has its place, and a last frame; the second still waits for one."""
    options = {"site_energy": morse, "temperature": 300.0, "every": 1000, "batch_atoms": 4}
    whole, _ = run_many(toy_model(), [copper(), copper()], 200, **options).runs
    seen: list = []
    tell = {"observe": lambda place, _, state: seen.append((place, state.step)), "stop": after(3)}
    first, second = run_many(toy_model(), [copper(), copper()], 200, **tell, **options).runs
    step = first.thermo[-1].step
    assert 0 < step < 200 and seen == [(0, 0), (0, step)] == [(0, state.step) for state in first.thermo]
    assert first.stopped.endswith(f"step {step}: ended by SIGTERM.")
    assert second.stopped.endswith("step 0: ended by SIGTERM.") and not second.thermo and np.isnan(second.atoms.get_potential_energy())
    (rest,) = run_many(toy_model(), [first.frames[-1]], 200 - step, **options).runs
    np.testing.assert_allclose(rest.atoms.positions, whole.atoms.positions, atol=1e-10, rtol=0)


@pytest.mark.thorough
@pytest.mark.multiprocess
def test_sigterm_ends_a_command_of_many(tmp_path):
    save_copper(tmp_path)
    process = start(tmp_path, "cu.xyz", "--engine", "jax", "--every", "7", "--steps", FOREVER, "--ensemble", "nvt")
    out, err = end(process, tmp_path / "md" / "1.jsonl")
    assert process.returncode == 0, err
    assert "Ended by SIGTERM. Go on from the last frame of each" in out and (tmp_path / "md.html").exists()
    for k in range(2):
        lines = [json.loads(line)["step"] for line in (tmp_path / "md" / f"{k}.jsonl").read_text().splitlines()]
        assert len(read(tmp_path / "md" / f"{k}.xyz", ":")) == len(lines) > 2 and f"step {lines[-1]}: ended by SIGTERM" in out


@pytest.mark.thorough
@pytest.mark.multiprocess
@pytest.mark.parametrize("engine", ["ase", "jax"])
def test_sigterm_ends_a_command_that_can_go_on(tmp_path, engine):
    save_copper(tmp_path)
    options = ["--engine", engine, "--every", "7", *(["--state", "md.state"] if engine == "jax" else [])]
    process, log = start(tmp_path, *options, "--steps", FOREVER), tmp_path / "md.jsonl"
    out, err = end(process, log)
    assert process.returncode == 0, err
    step = int(out.split("Stopped by SIGTERM at step ")[1].split()[0])
    lines = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    frames = read(tmp_path / "md.xyz", ":")
    assert len(frames) == len(lines) > 2 and step >= lines[-1]
    if engine == "jax":
        assert "Go on from md.state with --restart" in out and lines[-1] == step - step % 7
        done = start(tmp_path, *options, "--steps", str(step + 7), "--restart")
        out, err = done.communicate(timeout=300)
        assert done.returncode == 0, err
        again = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert again == [*range(0, step + 7, 7), step + 7] and "Stopped" not in out
    else:
        assert "Go on from the last frame of md.xyz, with --steps" in out and lines[-1] == step
        assert np.abs(frames[-1].get_momenta()).max() > 0
