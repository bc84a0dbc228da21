"""Structures of many files in; results, steps and numbers out, as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import write

from macejax.checkpoint.atomic import sync_directory
from macejax.data.structure import DataError
from macejax.simulate.many.relax import Relaxed
from macejax.simulate.record import late_file, read_frames, refuse_existing, refuse_other_formats, refuse_same, snapshot
from macejax.simulate.relax import Relaxation

Observe = Callable[[int, Atoms, Relaxation], None]


def inputs(paths: Sequence[Path], index: str = ":") -> tuple[list[Atoms], list[str]]:
    """Structures of all the files, constraints included, and their names, "file:frame", counted among those that were chosen.

    Raises:
      DataError: a file holds none, or is not understood. OSError: a file cannot be opened.
    """
    frames, names = [], []
    for path in paths:
        found = read_frames(path, index)
        frames += found
        names += [f"{path}:{k}" if len(found) > 1 else str(path) for k in range(len(found))]
    return frames, names


@contextmanager
def saving(
    output: Path, trajectory: Path | None, log: Path | None, others: Mapping[str, Path], overwrite: bool
) -> Iterator[tuple[Observe | None, Callable[[int, Relaxed], None]]]:
    """Two functions: one to be called with every step, None where nobody wants to see them, and one with every result.

    Results are appended to `output` as they come, so that a killed run is not lost, and are put in order at the end. A structure says in
    `info` which it is: `structure` (its place), `source`, `converged` and `steps`.

    Args:
      output: of the results, extended XYZ.
      trajectory, log: of the steps: extended XYZ, and JSON lines.
      others: further files that are going to be written, by what they are called.
      overwrite: whether files that exist may be replaced.

    Raises:
      ConfigError: `output` or `trajectory` has the ending of another format, or two files are one.
      FileExistsError: a file is there already, and `overwrite` is not set.
    """
    refuse_other_formats((output, trajectory))
    part = output.with_name(output.name + ".part")
    refuse_same({"--output": output, "--trajectory": trajectory, "--log": log, "the results being put in order": part, **others})
    refuse_existing((output, trajectory, log, *others.values()), overwrite)
    results: dict[int, Atoms] = {}
    with ExitStack() as stack:
        opened = {p: stack.enter_context(late_file(p)) for p in (output, trajectory, log) if p is not None}

        def put(path: Path, atoms: Atoms, **info: Any) -> Atoms:
            frame = snapshot(atoms)
            frame.info |= info
            write(opened[path](), frame, format="extxyz")
            opened[path]().flush()
            return frame

        def observe(place: int, atoms: Atoms, state: Relaxation) -> None:
            if trajectory is not None:
                put(trajectory, atoms, structure=place, step=state.step)
            if log is not None:
                print(json.dumps({"structure": place, **state._asdict()}), file=opened[log](), flush=True)

        def keep(place: int, result: Relaxed) -> None:
            about = {"structure": place, "source": result.name, "converged": result.end.converged, "steps": result.end.step}
            results[place] = put(output, result.atoms, **about)

        yield (observe if trajectory is not None or log is not None else None), keep
    write(part, [results[place] for place in sorted(results)], format="extxyz")
    part.replace(output)


class EachRecorder:
    """An `observe` for `run_many` or `relax_many` that keeps a trajectory and a log of each system; made by `record_each`."""

    def __init__(self, folder: Path, overwrite: bool, resume: Mapping[str, int]) -> None:
        self._folder, self._overwrite = folder, overwrite or bool(resume)
        self._sizes, self._to_cut, self._changed = dict(resume), dict(resume), set[str]()
        for path, size in ((folder / name, size) for name, size in resume.items()):
            there = path.stat().st_size if path.exists() else 0
            if there < size:
                raise DataError(f"{path} has {there} bytes, but had {size} when the state was saved: it is not the file of that run.")

    def __call__(self, place: int, atoms: Atoms, numbers: Any) -> None:
        """Append a frame of the system at this place."""
        trajectory, log = (self._begin(f"{place}.{ending}") for ending in ("xyz", "jsonl"))
        with open(trajectory, "a", encoding="utf-8") as frames, open(log, "a", encoding="utf-8") as lines:
            write(frames, snapshot(atoms), format="extxyz")
            print(json.dumps(numbers._asdict()), file=lines)

    def log(self, place: int) -> Path | None:
        """The log of a system; None where there is no frame of it."""
        return self._folder / f"{place}.jsonl" if f"{place}.jsonl" in self._sizes else None

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, each made sure to be on the disk: what a restart begins behind."""
        self._cut()
        for name in self._changed:
            with open(self._folder / name, "rb") as file:
                os.fsync(file.fileno())
                self._sizes[name] = os.fstat(file.fileno()).st_size
        if self._changed:
            sync_directory(self._folder)
        self._changed.clear()
        return dict(self._sizes)

    def _begin(self, name: str) -> Path:
        self._cut()
        path = self._folder / name
        if name not in self._sizes:
            self._folder.mkdir(parents=True, exist_ok=True)
            refuse_existing((path,), self._overwrite, "choose another folder")
            path.write_text("", encoding="utf-8")
            self._sizes[name] = 0
        self._changed.add(name)
        return path

    def _cut(self) -> None:
        """At the first frame, and not before: a run that is refused leaves files as they were."""
        for name, size in self._to_cut.items():
            os.truncate(self._folder / name, size)
        self._to_cut.clear()


def record_each(folder: Path | str, overwrite: bool = False, resume: Mapping[str, int] | None = None) -> EachRecorder:
    """An `observe` for `run_many` or `relax_many` that keeps a trajectory and a log of each system in `folder`.

    System k has `k.xyz`, extended XYZ, and `k.jsonl`, the numbers of each frame as a line of JSON. Files are closed between frames: a run
    can be followed, a killed one is not lost, and there may be any number of systems.

    Args:
      folder: made where it is not there.
      overwrite: replace files that exist.
      resume: go on with files that exist, cut to these sizes (`load_outputs`); what a killed run wrote after them is done again.

    Raises:
      DataError: a file to go on with is missing, or shorter than it was.
      FileExistsError (when called): a file of an earlier run is there, and neither `overwrite` nor `resume` is set.
    """
    return EachRecorder(Path(folder), overwrite, resume or {})
