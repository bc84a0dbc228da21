"""A run that is interrupted again and again, wherever it is, ends with the bits of the run that was not."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macejax.checkpoint import training
from macejax.train import loop
from macejax.train.log import StepLog
from macejax.train.loop import Outcome, train
from tests.reliability.test_resume import Killed, arrays, metrics
from tests.reliability.tiny import configuration, shared_steps

INTERRUPTIONS = 30
PLACES = {  # where an interruption may fall: before and after these
    "step": (StepLog, "add"),
    "validation": (loop, "validate"),
    "save": (loop, "save_checkpoint"),
    "manifest": (training, "write_manifest"),
    "rename of a file": (os, "replace"),
    "rename of a folder": (Path, "rename"),
    "deletion": (shutil, "rmtree"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Outcome]]:
    """The run that is left in peace."""
    folder = tmp_path_factory.mktemp("whole")
    with shared_steps():
        yield folder, train(configuration(folder), quiet=True)


def watched(patch: pytest.MonkeyPatch, place: str, number: int, act: Callable[[], None]) -> list[str]:
    """Calls `act` once, when a run is there for that time, and puts the place into the list that is returned."""
    passed, found = [0], []
    (owner, name), call = PLACES[place], getattr(*PLACES[place])

    def moment() -> None:
        passed[0] += 1
        if passed[0] == number:
            found.append(place)
            act()

    def wrapped(*arguments: Any, **options: Any) -> Any:
        moment()
        result = call(*arguments, **options)
        moment()
        return result

    patch.setattr(owner, name, wrapped)
    return found


def interrupt(kind: str) -> None:
    """SIGTERM, of which the run takes note, or an end without any warning."""
    if kind == "killed":
        raise Killed
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["SIGTERM", pytest.param("killed", marks=pytest.mark.slow)])
def test_interrupted_at_30_seeded_moments(kind: str, whole: tuple[Path, Outcome], tmp_path: Path) -> None:
    """Runs one after the other, each interrupted and resumed until it is done, until there were 30 interruptions."""
    assert threading.current_thread() is threading.main_thread()  # elsewhere there is no handler, and SIGTERM would end the tests
    random = np.random.default_rng(3)
    places: list[str] = []
    finished = 0
    while len(places) < INTERRUPTIONS:
        folder = tmp_path / f"run {finished}"
        folder.mkdir()
        config, outcome = configuration(folder), None
        while outcome is None or outcome.model_path is None:
            place = [*PLACES][len(places) % len(PLACES)]
            number = int(random.integers(1, 9 if place == "step" else 5)) if len(places) < INTERRUPTIONS else -1
            with pytest.MonkeyPatch.context() as patch:
                found = watched(patch, place, number, lambda: interrupt(kind))
                try:
                    outcome = train(config, resume=True, quiet=True)
                except Killed:
                    outcome = None
            if outcome is not None and outcome.stopped_by is not None:
                assert found and outcome.stopped_by == "SIGTERM"
            places += found
        reference = whole[0] / "tiny"
        assert metrics(folder / "tiny") == metrics(reference)
        # Whether in `best` or in `last`, of which another may be the one that stays beside the newest.
        ours, theirs = ({name.split("/", 1)[1]: value for name, value in arrays(run).items()} for run in (folder / "tiny", reference))
        assert {name for name in theirs if name.startswith("000000040")} <= ours.keys()
        assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
        assert outcome.model_path.read_bytes() == (reference / "tiny.mace").read_bytes()
        finished += 1
    assert {*places} == {*PLACES}
