"""The course of a run: which epoch is the best, when it stops, when the second stage begins, what it leaves behind."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from macejax.checkpoint.load import load_model, read_header
from macejax.checkpoint.training import restore_checkpoint
from macejax.config import ConfigError
from macejax.data.write import write
from macejax.train import loop
from macejax.train.log import read_metrics
from macejax.train.loop import train
from macejax.train.state import eval_params
from tests.reliability.tiny import configuration, shared_steps, waters


@pytest.fixture(scope="module", autouse=True)
def steps():
    with shared_steps():
        yield


@pytest.fixture
def told_losses(monkeypatch):
    """Makes the validations report given losses, the first being that before training."""

    def tell(*losses: float) -> None:
        original, remaining = loop.validate, iter(losses)
        monkeypatch.setattr(loop, "validate", lambda *args, **kw: original(*args, **kw)._replace(loss=next(remaining)))

    return tell


def best_epochs(folder) -> list[int]:
    return [line["epoch"] for line in read_metrics(folder) if line["kind"] == "validation" and line["best"]]


def test_best_is_the_lowest_finite_validation_and_patience_stops(tmp_path, told_losses):
    told_losses(0.5, 3.0, 1.0, math.nan, 1.5, 1.0, 0.1)
    outcome = train(configuration(tmp_path, run__epochs=20, run__patience=3, stage_two__enabled=False), quiet=True)
    assert int(outcome.state.epoch) == 5 and best_epochs(tmp_path / "tiny") == [1, 2]
    assert read_header(outcome.model_path)["extra"]["epoch"] == 2
    assert [path.name for path in (tmp_path / "tiny" / "checkpoints" / "best").iterdir()] == ["000000010"]


@pytest.mark.thorough
def test_patience_of_the_first_stage_begins_the_second_which_has_a_best_of_its_own(tmp_path, told_losses):
    told_losses(0.5, 1.0, 2.0, 2.0, 50.0, 60.0, 60.0)
    outcome = train(configuration(tmp_path, run__epochs=20, run__patience=2, stage_two__start=15), quiet=True)
    lines = read_metrics(tmp_path / "tiny")
    assert [line["epoch"] for line in lines if line["kind"] == "stage"] == [3] and int(outcome.state.epoch) == 6
    assert best_epochs(tmp_path / "tiny") == [1, 4]
    assert read_header(outcome.model_path)["extra"]["epoch"] == 4
    assert read_header(tmp_path / "tiny" / "tiny_stage_one.mace")["extra"]["epoch"] == 1
    rates = {line["epoch"]: line["learning_rate"] for line in lines if line["kind"] == "validation"}
    assert rates[3] == pytest.approx(0.01, rel=0.3) and rates[4] == rates[6] == 1e-3


def test_a_stage_is_validated_before_it_ends(tmp_path):
    """However seldom one validates: else the first would leave no model."""
    options = {"run__epochs": 5, "stage_two__start": 1, "run__validate_every": 2, "run__seed": 2**63 - 1}
    train(configuration(tmp_path, **options), quiet=True)
    lines = read_metrics(tmp_path / "tiny")
    assert [line["epoch"] for line in lines if line["kind"] == "validation"] == [0, 1, 2, 4, 5]
    assert [line["epoch"] for line in lines if line["kind"] == "stage"] == [1]
    assert read_header(tmp_path / "tiny" / "tiny_stage_one.mace")["extra"]["epoch"] == 1


def test_what_moves_with_the_number_of_epochs_does_not_move_on_resume(tmp_path):
    def go_on(name: str, **options):
        return train(configuration(tmp_path, name, **options), resume=True, quiet=True, stop=lambda: "the test").state

    cosine = {"optimizer__schedule__kind": "cosine", "stage_two__enabled": False}
    go_on("cosine", run__epochs=4, **cosine)
    with pytest.raises(ConfigError, match=r"run.epochs was 4 .* is 8 now, but the cosine schedule .*resume with 4, or"):
        go_on("cosine", run__epochs=8, **cosine)
    go_on("stages", run__epochs=4, stage_two__start=None)
    with pytest.raises(ConfigError, match=r"stage_two.start was 3 .* is 6 now \(null is three quarters"):
        go_on("stages", run__epochs=8, stage_two__start=None)
    assert int(go_on("stages", run__epochs=8, stage_two__start=3).step) == 2


def test_the_model_file_holds_the_averaged_weights_of_the_best_epoch(tmp_path):
    outcome = train(configuration(tmp_path, run__epochs=4, stage_two__enabled=False), quiet=True)
    best, _ = restore_checkpoint([tmp_path / "tiny" / "checkpoints" / "best"], outcome.state, pytest.fail)
    model = load_model(outcome.model_path)
    wanted, raw, found = (jax.tree.leaves(tree) for tree in (eval_params(best), best.params, model.params))
    assert all(map(np.array_equal, wanted, found)) and not all(map(np.array_equal, raw, found))
    lines = read_metrics(tmp_path / "tiny")
    validations = [line["loss"] for line in lines if line["kind"] == "validation"]
    assert validations[-1] < 0.5 * validations[0]  # it learns
    final = {line["subset"]: line for line in lines if line["kind"] == "final"}
    assert final["valid"]["loss"] == pytest.approx(min(validations[1:]), rel=1e-12)
    assert set(final) == {"train", "valid"} and {"all", "even", "odd"} == set(final["train"]["errors"])


def test_how_often_one_looks_changes_no_weight(tmp_path):
    often = train(
        configuration(tmp_path, "often", run__epochs=2, stage_two__enabled=False, run__log_every=1, run__save_every=1), quiet=True
    )
    options = {"run__epochs": 2, "stage_two__enabled": False, "run__log_every": 99, "run__save_every": 99, "run__validate_every": 2}
    seldom = train(configuration(tmp_path, "seldom", optimizer__schedule__kind="constant", **options), quiet=True)
    for left, right in zip(jax.tree.leaves(often.state.params), jax.tree.leaves(seldom.state.params), strict=True):
        assert np.array_equal(left, right)


def test_without_average_the_weights_themselves_are_saved(tmp_path):
    plain = train(configuration(tmp_path, run__epochs=2, stage_two__enabled=False, run__ema_decay=None), quiet=True)
    best, _ = restore_checkpoint([tmp_path / "tiny" / "checkpoints" / "best"], plain.state, pytest.fail)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (best.params, load_model(plain.model_path).params))))


def test_more_devices_than_there_are_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="run.device_count is 99, but there"):
        train(configuration(tmp_path, run__device_count=99), quiet=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model__interaction": "RealAgnostik"}, "no interaction block is called 'RealAgnostik'"),
        ({"model__hidden_irreps": "4x0e + 2x1o"}, "same number of channels"),
        ({"loss__energy_weight": 0, "loss__forces_weight": 0}, "weight 0 on each of its terms"),
        ({"optimizer__schedule__kind": "cosine", "optimizer__schedule__warmup_epochs": 9}, "9 of warm-up"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_work_is_refused_before_the_data_are_read(tmp_path, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train(configuration(tmp_path, data__train="absent.xyz", **options), quiet=True)


def test_labels_that_some_training_structures_lack_are_counted(tmp_path, capsys):
    write(tmp_path / "valid.xyz", waters(3))
    partly = [s._replace(forces=None) if n < 8 else s for n, s in enumerate(waters(22))]
    options = {"data__valid": str(tmp_path / "valid.xyz"), "run__epochs": 1, "stage_two__enabled": False}
    train(configuration(tmp_path, structures=partly, **options), stop=lambda: "the test")
    assert "structures: 22 train (14 with forces), 3 valid;" in capsys.readouterr().out


def test_the_console_tells_the_course(tmp_path, capsys):
    write(tmp_path / "test.xyz", waters(3, seed=4))
    (tmp_path / "test.xyz").write_text((tmp_path / "test.xyz").read_text().rstrip("\n"))
    train(configuration(tmp_path, run__epochs=1, stage_two__enabled=False, data__test=str(tmp_path / "test.xyz")))
    said = capsys.readouterr().out
    assert "test.xyz:frame 2: the last line of the file has no end" in " ".join(said.split())
    for part in ("structures: 18 train, 4 valid, 3 test", "epoch    1", "MAE F meV/Å", "test: odd", "tiny.mace", "report.html"):
        assert part in said
