"""A run that was stopped and resumed is, bit by bit, the run that was not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from macejax.checkpoint.manifest import MANIFEST, CheckpointError, read_manifest
from macejax.config import ConfigError
from macejax.train.log import METRICS, WALL_CLOCK, read_metrics
from macejax.train.loop import Outcome, train
from macejax.train.resume import _require_same_options
from tests.marks import rest_is_thorough
from tests.reliability.tiny import configuration, shared_steps, waters

STEPS = 40


def arrays(folder: Path) -> dict[str, str]:
    """sha256 of every array of every checkpoint of a run."""
    import jax
    import orbax.checkpoint as ocp

    found = {}
    for path in sorted((folder / "checkpoints").glob("*/*")):
        for place, value in jax.tree_util.tree_leaves_with_path(ocp.PyTreeCheckpointer().restore(path)):
            name = f"{path.parent.name}/{path.name}{jax.tree_util.keystr(place)}"
            found[name] = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return found


def metrics(folder: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in WALL_CLOCK} for line in read_metrics(folder)]


def stop_after(steps: int):
    """Asks to stop after so many steps of this part of the run."""
    asked = iter(range(1, 10**6))
    return lambda: f"the test after {steps} steps" if next(asked) >= steps else None


class Killed(BaseException):
    """An end without a checkpoint."""


def killed() -> str:
    raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[tuple[Path, Outcome]]:
    """The run that is never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with shared_steps():
        yield folder, train(configuration(folder), quiet=True)


def test_the_run_is_worth_comparing(whole):
    """It has both stages, a learning rate that falls, a best that is not the last, lines of every kind."""
    folder, outcome = whole
    lines = metrics(folder / "tiny")
    assert int(outcome.state.step) == STEPS and int(outcome.state.stage) == 1
    assert {line["kind"] for line in lines} == {"train", "epoch", "validation", "stage", "final"}
    assert len({line["learning_rate"] for line in lines if line["kind"] == "train"}) > 2
    assert (folder / "tiny" / "tiny_stage_one.mace").exists()


@pytest.mark.bits
@pytest.mark.parametrize("stops", rest_is_thorough([(1,), (7, 13), (33,)], [(7, 13)]), ids=str)
def test_stopped_and_resumed_is_bitwise_the_same(whole, tmp_path, stops):
    """Stops after 1, after 7 and after 20, and after 33 of 40 steps: inside an epoch, at its end, in both stages."""
    config = configuration(tmp_path)
    for number, steps in enumerate(stops):
        outcome = train(config, resume=number > 0, quiet=True, stop=stop_after(steps))
        assert outcome.stopped_by is not None and outcome.model_path is None
        assert int(outcome.state.step) == sum(stops[: number + 1])
    finished = train(config, resume=True, quiet=True)
    folder, reference = whole
    assert metrics(tmp_path / "tiny") == metrics(folder / "tiny")
    ours, theirs = arrays(tmp_path / "tiny"), arrays(folder / "tiny")
    assert {name: value for name, value in ours.items() if name in theirs} == theirs
    assert finished.model_path.read_bytes() == reference.model_path.read_bytes()


def test_edges_may_lie_on_disk_in_one_part_of_a_run_and_not_in_another(whole, tmp_path):
    edges = tmp_path / "edges"
    for part, options in enumerate(({"data__edge_folder": str(edges)}, {}, {"data__edge_folder": str(edges)})):
        outcome = train(configuration(tmp_path, **options), resume=part > 0, quiet=True, stop=stop_after(15))
        assert len(list(edges.iterdir())) == 2  # of the training and the validation set
    folder, reference = whole
    assert metrics(tmp_path / "tiny") == metrics(folder / "tiny")
    assert outcome.model_path.read_bytes() == reference.model_path.read_bytes()


def test_stopped_after_the_last_step_of_an_epoch_which_is_validated_once(whole, tmp_path):
    """Step 5 is saved before its validation; resumed runs save it after, enter the second stage, and are killed at the next step."""
    straight, config = (
        configuration(tmp_path, name, run__epochs=2, stage_two__start=1, run__save_every=99) for name in ("straight", "tiny")
    )
    train(straight, quiet=True, stop=stop_after(6))
    assert int(train(config, quiet=True, stop=stop_after(5)).state.epoch) == 0
    for _ in range(2):
        with pytest.raises(Killed):
            train(config, resume=True, quiet=True, stop=killed)
        assert read_manifest(tmp_path / "tiny" / "checkpoints" / "last" / "000000005")["epoch"] == 1
    train(config, resume=True, quiet=True, stop=stop_after(1))
    assert metrics(tmp_path / "tiny") == metrics(tmp_path / "straight")
    assert [line["kind"] for line in metrics(tmp_path / "tiny")] == ["validation", "train", "epoch", "validation", "stage"]
    assert arrays(tmp_path / "tiny") == arrays(tmp_path / "straight")


def test_stopped_after_the_very_last_step(whole, tmp_path):
    straight, config = (configuration(tmp_path, name, run__epochs=1, stage_two__enabled=False) for name in ("straight", "tiny"))
    train(straight, quiet=True)
    train(config, quiet=True, stop=stop_after(5))
    for _ in range(2):
        assert int(train(config, resume=True, quiet=True).state.epoch) == 1
        assert metrics(tmp_path / "tiny") == metrics(tmp_path / "straight")
        assert arrays(tmp_path / "tiny") == arrays(tmp_path / "straight")


def test_resuming_a_finished_run_only_tests_again(whole):
    folder, reference = whole
    before, table = reference.model_path.read_bytes(), metrics(folder / "tiny")
    again = train(configuration(folder), resume=True, quiet=True)
    assert int(again.state.step) == STEPS and again.model_path.read_bytes() == before and metrics(folder / "tiny") == table


def test_saves_that_fall_on_the_ends_of_epochs_tell_of_them_once(whole, tmp_path):
    """Each epoch has 5 steps: what is saved at its end is the state after validation."""
    config = configuration(tmp_path, run__save_every=5)
    train(config, quiet=True)
    assert metrics(tmp_path / "tiny") == metrics(whole[0] / "tiny")
    train(config, resume=True, quiet=True)
    assert metrics(tmp_path / "tiny") == metrics(whole[0] / "tiny")


def test_without_a_whole_best_the_last_weights_make_the_model(whole, tmp_path, capsys):
    shutil.copytree(whole[0] / "tiny", tmp_path / "tiny")
    for best in (tmp_path / "tiny" / "checkpoints" / "best").iterdir():
        (best / MANIFEST).unlink()
    for _ in range(2):
        (tmp_path / "tiny" / "tiny.mace").unlink()
        outcome = train(configuration(tmp_path), resume=True)
        assert "take the place of the best" in " ".join(capsys.readouterr().out.split())
        assert outcome.model_path.exists() and int(outcome.state.step) == STEPS


def test_a_run_is_not_overwritten(whole):
    with pytest.raises(ConfigError, match="holds the checkpoints of a run.*--resume"):
        train(configuration(whole[0]), quiet=True)


def test_another_configuration_or_other_data_are_refused(whole, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(whole[0] / "tiny", copy)
    with pytest.raises(ConfigError, match="loss.forces_weight was 100.0 when the run was begun and is 10.0 now"):
        train(configuration(tmp_path, loss__forces_weight=10), resume=True, quiet=True)
    with pytest.raises(CheckpointError, match="structures are not those"):
        train(configuration(tmp_path, structures=waters(22, seed=5)), resume=True, quiet=True)


def test_options_that_a_run_did_not_know_were_at_their_defaults(tmp_path):
    now = configuration(tmp_path).model_dump(mode="json")
    then = now | {"optimizer": {name: value for name, value in now["optimizer"].items() if name != "rate_factors"}}
    _require_same_options(then, now)
    frozen = configuration(tmp_path, optimizer__rate_factors__readouts=0.5).model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"optimizer.rate_factors.readouts was 1.0 when the run was begun and is 0.5 now"):
        _require_same_options(then, frozen)


def test_damage_is_told_and_the_newest_good_one_is_used_or_none(whole, tmp_path, capsys):
    """Never a silent restart: with one checkpoint damaged the one before is used, with all of them damaged the run refuses to begin."""
    copy = tmp_path / "tiny"
    shutil.copytree(whole[0] / "tiny", copy)
    config = configuration(tmp_path)
    newest, older = sorted((copy / "checkpoints" / "last").iterdir(), reverse=True)
    victim = next(newest.rglob("ocdbt*/d/*"))
    victim.write_bytes(victim.read_bytes()[:-1])
    for best in (copy / "checkpoints" / "best").iterdir():
        (best / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="no checkpoint of this run is whole"):
        (older / MANIFEST).rename(older / "hidden")
        train(config, resume=True)
    for resume in (True, False):  # asked again, as a queue does
        with pytest.raises((CheckpointError, ConfigError), match="not begun anew by itself|holds the checkpoints of a run"):
            train(config, resume=resume)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newest.name} is not used" in said and "bytes instead of" in said and "has no MANIFEST.json" in said
    assert json.loads((copy / METRICS).read_text().splitlines()[-1])["kind"] == "final"  # nothing was begun


def test_resume_without_a_checkpoint_begins_and_says_so(whole, tmp_path, capsys):
    outcome = train(configuration(tmp_path), resume=True, stop=stop_after(2))
    assert int(outcome.state.step) == 2 and "nothing to resume" in capsys.readouterr().out
