"""What a run says: JSON lines for programs, a line per validation for people, a live bar where there is a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from macejax.cache import Compilation
from macejax.checkpoint.atomic import write_atomically
from macejax.train.guard import check_finite
from macejax.train.parallel import is_step

METRICS = "metrics.jsonl"
WALL_CLOCK = ("time", "seconds", "compilations", "compile_seconds")  # fields that differ between two runs of the same thing


class Log:
    """Where a run writes: `metrics.jsonl` in its folder, and the console. Made by `open_log`."""

    def __init__(self, path: Path | None, console: Console, progress: Progress | None):
        self.console = console
        self.lines = 0  # of metrics so far
        self._path = path
        self._file = None if path is None else open(path, "a", encoding="utf-8")
        self._progress = progress
        self._task: TaskID | None = None

    def write(self, kind: str, **values: Any) -> None:
        """Append one line of metrics. Numbers that are not finite become null."""
        if self._file is not None:
            line = {"kind": kind, **{name: _plain(value) for name, value in values.items()}, "time": round(time.time(), 3)}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self.lines += 1

    def say(self, message: str) -> None:
        """One line for the reader."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """One line that must not be overlooked."""
        self.console.print(f"WARNING: {message}", style="bold yellow", markup=False, highlight=False, soft_wrap=True)

    def advance(self, epoch: int, done: int, total: int, note: str = "") -> None:
        """Move the bar; without a terminal nothing happens, for the lines of `say` are enough there."""
        if self._progress is None:
            return
        if self._task is None:
            self._task = self._progress.add_task("", total=total, note="")
        self._progress.update(self._task, completed=done, total=total, description=f"epoch {epoch}", note=note)

    def rewind(self, step: int, lines: int | None = None) -> None:
        """Drop the lines beyond `step`, those of the end of the run, and one that was cut short: what they tell of will be done again.

        Args:
          step: of the state that the run goes on from.
          lines: how many there were when that state was saved, for what came after may be of the same step: the end of an epoch, or the
            beginning of the second stage. None where the checkpoint does not tell.
        """
        if self._path is None or self._file is None:
            return
        self._file.close()
        kept = [line for line in read_metrics(self._path.parent) if line.get("step", 0) <= step and line["kind"] != "final"][:lines]
        self.lines = len(kept)
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(self._path, "a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


@contextmanager
def open_log(folder: Path | None, *, quiet: bool = False) -> Iterator[Log]:
    """The log of a run.

    Args:
      folder: where `metrics.jsonl` lies; None for a process that only computes.
      quiet: nothing on the console.
    """
    console = Console(quiet=quiet)
    live = console.is_terminal and not quiet
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    progress = Progress(*columns, console=console, transient=True) if live else None
    log = Log(None if folder is None else folder / METRICS, console, progress)
    try:
        if progress is not None:
            progress.start()
        yield log
    finally:
        if progress is not None:
            progress.stop()
        log.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` as dictionaries; one that was cut short by a crash is left out."""
    lines = []
    for text in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


class StepLog:
    """Infos of training steps, left on the device until they are needed, so that the host does not wait for every step.

    `memory` holds the running sums, plain numbers that go into a checkpoint, so that a resumed run writes the lines of one that never
    stopped. `compiled` grows with the programs that are compiled; each line of an epoch tells how many steps, of training or of
    validation, were among them since the line before, or since the run began.
    """

    def __init__(self, log: Log, every: int, max_skipped: int, source_of: Callable[[int], str], compiled: Sequence[Compilation] = ()):
        self.memory: dict[str, float] = {"interval_sum": 0.0, "interval_count": 0, "epoch_sum": 0.0, "epoch_count": 0}
        self._log = log
        self._every = every
        self._max_skipped = max_skipped
        self._source_of = source_of
        self._compiled = compiled
        self._told = 0  # how many of these were there when the last line was written
        self._pending: list[tuple[int, int, dict[str, Any], Sequence[int]]] = []
        self._begun = time.monotonic()
        self.last: dict[str, float] = {}

    def begin_epoch(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def add(self, step: int, epoch: int, info: dict[str, Any], indices: Sequence[int]) -> bool:
        """Take note of step number `step` (from 1). True where a line is due: then the infos were fetched and the line written."""
        self._pending.append((step, epoch, info, indices))
        due = step % self._every == 0
        if due:
            self.drain()
        return due

    def drain(self) -> None:
        """Fetch all infos from the device, in order.

        Raises:
          NonFiniteError: too many steps in a row had a loss or gradient that is not finite.
        """
        for (step, epoch, _, indices), info in zip(self._pending, jax.device_get([entry[2] for entry in self._pending]), strict=True):
            self._take(step, epoch, info, indices)
        self._pending.clear()

    def end_epoch(self, step: int, epoch: int) -> float:
        """Write and return the mean loss over the finite steps of the epoch that made it `epoch` epochs; the sum starts anew."""
        self.drain()
        mean = _mean(self.memory["epoch_sum"], self.memory["epoch_count"])
        new = [program for program in self._compiled[self._told :] if is_step(program)]
        self._told = len(self._compiled)
        self._log.write(
            "epoch",
            step=step,
            epoch=epoch,
            loss=mean,
            seconds=round(time.monotonic() - self._begun, 4),
            compilations=len(new),
            compile_seconds=round(sum(program.seconds for program in new), 3),
        )
        self.memory.update(epoch_sum=0.0, epoch_count=0)
        return mean

    def _take(self, step: int, epoch: int, info: dict[str, Any], indices: Sequence[int]) -> None:
        if info["finite"]:
            for name in ("interval", "epoch"):
                self.memory[f"{name}_sum"] += float(info["loss"])
                self.memory[f"{name}_count"] += 1
        self.last = {name: float(info[name]) for name in ("loss", "grad_norm", "learning_rate")}
        if step % self._every == 0:
            mean = _mean(self.memory["interval_sum"], self.memory["interval_count"])
            self._log.write("train", step=step, epoch=epoch, **{**self.last, "loss": mean}, skipped=int(info["skipped"]))
            self.memory.update(interval_sum=0.0, interval_count=0)
        if not info["finite"]:
            bad = [int(index) for index in np.unique(info["suspects"]) if index >= 0] or [int(index) for index in indices]
            frames = [self._source_of(index) for index in bad]
            self._log.write("skipped", step=step, epoch=epoch, frames=frames)
            self._log.warn(f"step {step}: loss or gradient is not finite; the step is skipped. Frames: {', '.join(frames[:4])}")
            check_finite(int(info["consecutive_skipped"]), self._max_skipped, frames)


def _mean(total: float, count: float) -> float:
    return total / count if count else float("nan")


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return value
