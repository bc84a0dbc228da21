"""Fine-tuning: what a run starts from, what it keeps of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import macejax
from macejax.checkpoint.load import load_with_extra
from macejax.checkpoint.manifest import CheckpointError
from macejax.checkpoint.model_file import save_model
from macejax.config import ConfigError, ModelConfig, TrainConfig, load_config
from macejax.data.structure import DataError
from macejax.data.write import write
from macejax.model.model import Model, init_model
from macejax.train import finish, loop
from macejax.train.evaluate import evaluate
from macejax.train.log import read_metrics
from macejax.train.loop import train
from macejax.train.prepare import Prepared, prepare
from macejax.train.start import digest, read_start
from tests.reliability.tiny import shared_steps, waters

LICENCE = {"licence": "MIT", "source": "somewhere", "name": "old", "epoch": 7, "mae_rmse": {"test": {}}}


def model(heads: tuple[str, ...] = ("Default",), elements: tuple[int, ...] = (1, 6, 8), **options: Any) -> Model:
    """A model that knows carbon too, with other constants for each head."""
    several = len(heads) > 1
    rows = tuple(tuple(-1.0 * number - place for number in elements) for place in range(len(heads)))
    values = dict(
        elements=elements,
        heads=heads,
        e0s=rows if several else rows[0],
        scale=tuple(0.5 + place for place in range(len(heads))) if several else 0.5,
        shift=tuple(0.1 * place for place in range(len(heads))) if several else 0.1,
        hidden_irreps="4x0e",
        interaction_first="RealAgnosticResidual",
        cutoff=3.5,
        l_max=1,
        correlation=1,
        num_interactions=1,
        radial_mlp=(8,),
        readout_irreps="4x0e",
        avg_num_neighbors=2.5,
    )
    return init_model(ModelConfig(**{**values, **options}), jax.random.key(3), np.float64)


def configuration(folder: Path, start: Model | None = None, structures=None, **options: Any) -> TrainConfig:
    """A run from a model; options with dots as two underscores."""
    write(folder / "water.xyz", structures or waters(16))
    save_model(folder / "start.mace", start or model(), LICENCE)
    values = {
        "start.model": str(folder / "start.mace"),
        "run.name": "tuned",
        "run.directory": str(folder),
        "run.epochs": 3,
        "run.seed": 1,
        "data.train": str(folder / "water.xyz"),
        "data.e0s": "foundation",
        "data.batch_size": 4,
        "data.valid_fraction": 0.25,
        "optimizer.learning_rate": 0.001,
    }
    return load_config(None, values | {key.replace("__", "."): value for key, value in options.items()})


@pytest.fixture(scope="module", autouse=True)
def steps_are_shared():
    """Runs of one model and loss compile once."""
    with shared_steps():
        yield


def prepared(config: TrainConfig, said: list[str] | None = None) -> Prepared:
    return prepare(config, [].append if said is None else said.append, read_start(config.start))


def energies(of: Model, structures) -> np.ndarray:
    """Total energies (eV)."""
    found = evaluate(of, structures, dtype="float64")
    return np.array([graph.e0 + predicted.energy for graph, predicted in zip(found.graphs, found.validation.predicted, strict=True)])


def test_a_run_starts_at_the_model_and_keeps_all_of_it(tmp_path):
    found = prepared(configuration(tmp_path))
    own, cut = model(), macejax.select_elements(model(), [1, 8])
    assert found.model == cut.config and found.model.scale == 0.5 and found.model.avg_num_neighbors == 2.5 and found.model.cutoff == 3.5
    np.testing.assert_allclose(energies(Model(found.model, found.params), waters(5)), energies(own, waters(5)), rtol=0, atol=1e-12)


def test_training_from_a_model(tmp_path, capsys, monkeypatch):
    """The first validation is that of the model; the loss falls; what is written tells where it comes from."""
    config = configuration(tmp_path)
    reports = []
    monkeypatch.setattr(finish, "write_report", lambda _, content: reports.append(content))
    outcome = train(config)
    metrics = [line for line in read_metrics(tmp_path / "tuned") if line["kind"] == "validation"]
    structures = prepared(config).structures["valid"]
    rmse = evaluate(model(), structures, dtype="float64").validation.errors["all"]["forces"].rmse
    assert metrics[0]["epoch"] == 0 and metrics[0]["forces_rmse"] == pytest.approx(rmse, rel=1e-9)
    assert metrics[-1]["best"] and metrics[-1]["loss"] < metrics[0]["loss"]
    written, extra = load_with_extra(outcome.model_path)
    assert (extra["licence"], extra["source"], extra["name"], extra["epoch"]) == ("MIT", "somewhere", "tuned", 3)
    assert extra["started_from"] == f"start.mace, weights of sha256 {digest(model().params)}"  # not its folder, which is the user's own
    assert written.config.elements == (1, 8) and "cutoff 3.5 Angstrom; 2 of its 3 elements" in capsys.readouterr().out
    assert "start.mace" in reports[0].facts["start"] and "2 of its 3 elements" in reports[0].facts["start"]


@pytest.mark.thorough
def test_frozen_parts_keep_their_weights(tmp_path, capsys):
    """To the bit, through two stages and the average; the others learn."""
    frozen = {f"optimizer.rate_factors.{part}": 0.0 for part in ("embedding", "interactions", "products")}
    stages = {"run.ema_decay": 0.9, "stage_two.enabled": True, "stage_two.start": 2}
    outcome = train(configuration(tmp_path, **frozen, **stages, **{"run.log_every": 1}))
    # Gradients of what is frozen are not computed: they are not in the norm by which all are clipped.
    train(configuration(tmp_path, **{"run.name": "free", "run.epochs": 1, "run.log_every": 1}), quiet=True)
    part, whole = (
        [line["grad_norm"] for line in read_metrics(tmp_path / name) if line["kind"] == "train"][0] for name in ("tuned", "free")
    )
    assert 0 < part < 0.99 * whole
    written, extra = load_with_extra(outcome.model_path)
    assert extra["epoch"] == 3
    before = macejax.select_elements(model(), [1, 8]).params["params"]
    held = 0
    for name, module in written.params["params"].items():
        for found, own in zip(jax.tree.leaves(module), jax.tree.leaves(before[name]), strict=True):
            assert np.array_equal(found, own) != name.startswith("readout_"), name
            held += 0 if name.startswith("readout_") else own.size
    assert f"({held} of them frozen)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stage_two__enabled": True, "stage_two__start": 2, "stage_two__learning_rate": 30.0},
        pytest.param({"run__ema_decay": 0.5}, marks=pytest.mark.thorough),
    ],
    ids=["plain", "two stages", "average"],
)
def test_weights_that_training_spoils_stay_the_best(tmp_path, options):
    """A learning rate that ruins the model ends with its weights as they were."""
    outcome = train(configuration(tmp_path, optimizer__learning_rate=30.0, **options), quiet=True)
    assert load_with_extra(outcome.model_path)[1]["epoch"] == 0
    np.testing.assert_allclose(energies(macejax.load(outcome.model_path), waters(5)), energies(model(), waters(5)), rtol=0, atol=1e-12)


def test_resume_is_bitwise_and_knows_its_start(tmp_path):
    whole = train(configuration(tmp_path, run__name="whole"), quiet=True)
    asked = iter(range(100))
    half = configuration(tmp_path, run__name="half")
    assert train(half, quiet=True, stop=lambda: "a test" if next(asked) == 3 else None).model_path is None
    moved = tmp_path / "moved.mace"
    (tmp_path / "start.mace").rename(moved)
    rest = half.model_copy(update={"start": half.start.model_copy(update={"model": str(moved)})})
    resumed = train(rest, resume=True, quiet=True)
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        assert np.array_equal(one, other)
    other = model()
    save_model(moved, other._replace(params=jax.tree.map(lambda leaf: 1.01 * leaf, other.params)))
    with pytest.raises(CheckpointError, match=r"or the weights to start from, are not those with which .*half was begun"):
        train(rest, resume=True, quiet=True)


def test_a_run_stopped_before_its_first_checkpoint_begins_again(tmp_path, monkeypatch):
    """Going on is the same run; and so is beginning anew, for there is nothing to lose."""
    config = configuration(tmp_path)
    whole = train(configuration(tmp_path, run__name="whole"), quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, quiet=True)
    assert not list((tmp_path / "tuned" / "checkpoints").rglob("manifest*"))  # so that other options may be tried under this name
    resumed = train(config, resume=True, quiet=True)
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        assert np.array_equal(one, other)
    lines = [[line for line in read_metrics(tmp_path / name) if line["kind"] == "validation"] for name in ("whole", "tuned")]
    assert [(line["epoch"], line["loss"], line["best"]) for line in lines[0]] == [(l["epoch"], l["loss"], l["best"]) for l in lines[1]]


def test_estimated_e0s_undo_what_energies_are_wrong_by(tmp_path):
    """Energies of the model with other energies of atoms: these are found again. Compositions must differ for that."""
    moves = {1: 0.7, 8: -3.2}
    hydroxyl = [s._replace(numbers=s.numbers[:2], positions=s.positions[:2], forces=s.forces[:2]) for s in waters(8, seed=1)]
    structures = [*waters(8), *hydroxyl]
    start = model(shift=-1000.0)  # which float32 does not hold to the last of six decimals
    own = energies(start, structures)
    labelled = [s._replace(energy=float(e + sum(moves[int(n)] for n in s.numbers))) for s, e in zip(structures, own, strict=True)]
    found = prepared(configuration(tmp_path, start, structures=labelled, data__e0s="estimated", data__valid_fraction=0.1)).model
    np.testing.assert_allclose(found.e0s, [-1.0 + 0.7, -8.0 - 3.2], rtol=0, atol=2e-6)
    waters_alone = [s for s in labelled if len(s.numbers) == 3]
    with pytest.warns(UserWarning, match="compositions determine only 1 of the 2"):
        rest = prepared(configuration(tmp_path, start, structures=waters_alone, data__e0s="estimated")).model
    total = 2 * (rest.e0s[0] + 1.0) + rest.e0s[1] + 8.0
    assert total == pytest.approx(2 * 0.7 - 3.2, abs=3e-6)
    config = configuration(tmp_path, start, structures=labelled, data__e0s="estimated", data__valid_fraction=0.1, run__dtype="float32")
    with jax.enable_x64(False):
        single = prepared(config)
    assert single.model.e0s == found.e0s  # a run may go on where sums are rounded otherwise
    with pytest.raises(DataError, match="E0s cannot be estimated: no structure has an energy"):
        prepared(configuration(tmp_path, start, structures=[s._replace(energy=np.nan) for s in waters(8)], data__e0s="estimated"))


def test_e0s_of_the_data_replace_those_of_the_model(tmp_path):
    assert prepared(configuration(tmp_path, data__e0s={"H": -13.0, "O": -430.0})).model.e0s == (-13.0, -430.0)
    with pytest.raises(DataError, match=r"no frame has config_type=IsolatedAtom.*set data.e0s to estimated or foundation"):
        prepared(configuration(tmp_path, data__e0s="isolated"))


def test_averages_beside_a_model_are_suspicious(tmp_path):
    said: list[str] = []
    with pytest.warns(UserWarning, match="E0s by least squares"):
        prepared(configuration(tmp_path, data__e0s="average"), said)
    assert any("the model to start from adds that again: try estimated" in line for line in said)


def test_heads_go_on_or_start_as_copies(tmp_path):
    """Replay: structures of the head `pt` keep it; the new head `mine` starts as a copy; `other`, which the data have not, is left out."""
    three = model(("pt", "other", "base"), num_interactions=2)
    structures = [s._replace(head="pt" if n % 2 else "mine") for n, s in enumerate(waters(16))]
    found = prepared(configuration(tmp_path, three, structures, start__head="base"))
    assert set(found.model.heads) == {"pt", "mine"}
    e0s, scales, shifts = (
        dict(zip(found.model.heads, v, strict=True)) for v in (found.model.e0_table, found.model.scales, found.model.shifts)
    )
    assert (e0s["pt"], scales["pt"], shifts["pt"]) == ((-1.0, -8.0), 0.5, 0.0)
    assert (e0s["mine"], scales["mine"], shifts["mine"]) == ((-3.0, -10.0), 2.5, 0.2)
    for head, source in (("pt", "pt"), ("mine", "base")):
        ours = energies(Model(found.model, found.params), [s._replace(head=head) for s in waters(4)])
        theirs = energies(three, [s._replace(head=source) for s in waters(4)])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_the_only_head_may_be_called_otherwise(tmp_path):
    found = prepared(configuration(tmp_path, structures=[s._replace(head="mine") for s in waters(16)]))
    assert found.model.heads == ("mine",)
    both = model(("a", "b"))
    found = prepared(configuration(tmp_path, both, start__head="b"))  # the data have no heads: all of them are `Default`
    assert found.model.heads == ("Default",) and found.model.e0s == (-2.0, -9.0) and found.model.scale == 1.5
    named = [s._replace(head="a") for s in waters(16)]
    assert prepared(configuration(tmp_path, both, named)).model.scale == 0.5  # goes on
    assert prepared(configuration(tmp_path, both, named, start__head="b")).model.scale == 1.5  # starts as the one that was asked for


def test_several_heads_are_trained_from_a_model(tmp_path):
    structures = [s._replace(head="pt" if n % 2 else "mine") for n, s in enumerate(waters(16))]
    outcome = train(configuration(tmp_path, model(("pt",)), structures, run__epochs=1), quiet=True)
    found = macejax.load(outcome.model_path)
    assert set(found.config.heads) == {"pt", "mine"} and set(found.config.scales) == {0.5} and set(found.config.e0_table) == {(-1.0, -8.0)}
    start, columns = prepared(configuration(tmp_path, model(("pt",)), structures)).params["params"], found.params["params"]
    moved = np.abs(columns["readout_0"]["linear"] - start["readout_0"]["linear"])
    assert moved.min() > 0 and not np.array_equal(*columns["readout_0"]["linear"].T)  # each head has learnt its own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start__head": "none"}, r"start\.head: .*start\.mace has no head 'none'; it has Default"),
        ({"start__model": "absent.mace"}, "there is no file absent.mace"),
        ({"model__elements": ["H", "O", "N"]}, r"start\.mace does not know N; it knows H, C, O"),
        ({"data__e0s": {"Default": "foundation", "mine": "average"}}, "data.e0s names 'mine', which is no head"),
    ],
)
def test_what_does_not_fit_the_model(tmp_path, options, message):
    config = configuration(tmp_path, **options)
    with pytest.raises((ConfigError, DataError, FileNotFoundError), match=message):
        prepared(config)


def test_a_file_of_mace_torch_is_a_start(tmp_path, real_data):
    path = real_data / "models" / "solvent_xtb" / "mace01.model"
    found = prepared(configuration(tmp_path, start__model=str(path)))
    own = macejax.load(path)
    assert found.model == macejax.select_elements(own, [1, 8]).config
    np.testing.assert_allclose(energies(Model(found.model, found.params), waters(3)), energies(own, waters(3)), rtol=0, atol=1e-9)


def test_elements_that_the_model_lacks(tmp_path):
    strange = [s._replace(numbers=np.array([7, 1, 1])) for s in waters(16)]
    with pytest.raises(DataError, match=r"start\.mace does not know N; it knows H, C, O"):
        prepared(configuration(tmp_path, structures=strange))
    assert prepared(configuration(tmp_path, model__elements=["C", "H", "O"])).model.elements == (1, 6, 8)


def test_heads_that_could_start_as_several(tmp_path):
    both = model(("a", "b"))
    with pytest.raises(ConfigError, match=r"has the heads a, b, none of which is called 'Default', as the data are: say which one"):
        prepared(configuration(tmp_path, both))
    structures = [s._replace(head="ab"[n % 2]) for n, s in enumerate(waters(16))]
    with pytest.raises(ConfigError, match=r"start\.head has no effect: .* has every head of the data \(a, b\)"):
        prepared(configuration(tmp_path, both, structures, start__head="a"))


def test_a_model_of_dipoles_has_one_head(tmp_path):
    dipoles = ModelConfig(
        model="AtomicDipolesMACE",
        elements=(1, 8),
        e0s=(0.0, 0.0),
        hidden_irreps="4x0e + 4x1o",
        readout_irreps="4x1o",
        cutoff=3.5,
        l_max=1,
        correlation=1,
        radial_mlp=(8,),
        num_interactions=1,
    )
    start = init_model(dipoles, jax.random.key(0), np.float64)
    structures = [s._replace(dipole=np.ones(3), head="mine" if n % 2 else "Default") for n, s in enumerate(waters(16))]
    with pytest.raises(ConfigError, match=r"start\.mace cannot have the heads Default, mine: .*AtomicDipolesMACE has no heads"):
        prepared(configuration(tmp_path, start, structures, data__e0s="isolated"))
    plain = [s._replace(head="Default") for s in structures]
    assert prepared(configuration(tmp_path, start, plain, data__e0s="isolated")).model == dipoles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model__cutoff": 4.0}, r"model\.cutoff has no effect beside start\.model, whose architecture is kept"),
        ({"model__scaling": "no_scaling"}, r"model\.scaling has no effect beside start\.model"),
        ({"start__model": None, "data__e0s": "average", "start__head": "a"}, r"start.*head has no effect without start\.model"),
        ({"start__model": None}, r"data\.e0s is foundation, which needs .* start\.model"),
        ({"start__model": None, "data__e0s": {"a": "estimated", "b": "average"}}, r"data\.e0s is estimated, which needs"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        configuration(tmp_path, **options)


def test_a_table_of_radial_functions_cannot_be_trained(tmp_path):
    tabulated = macejax.tabulate(model())
    with pytest.raises(ConfigError, match="tables in place of radial networks, which cannot be trained"):
        prepared(configuration(tmp_path, tabulated))


def test_a_loss_that_the_model_cannot_have(tmp_path):
    config = configuration(tmp_path, loss__kind="dipole")
    with pytest.raises(ConfigError, match="the loss dipole has a term for dipole, which ScaleShiftMACE does not predict"):
        train(config, quiet=True)
