"""Structures in; a trajectory and a log of numbers out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.io.formats import UnknownFileTypeError

from macejax.data.structure import DataError

FilePath = str | PathLike[str]


def read_frames(path: FilePath, index: str = ":") -> list[Atoms]:
    """Structures of a file that ASE reads, velocities included. `index` selects as in ASE: "0", "-1", "::10".

    Raises:
      DataError: there is none, or the file is not understood. OSError: the file cannot be opened.
    """
    try:
        found = read(path, index)
    except (UnknownFileTypeError, ValueError, IndexError, KeyError, AssertionError) as error:
        raise DataError(f"{path}: no structure could be read ({type(error).__name__}: {error}).") from error
    frames = found if isinstance(found, list) else [found]
    if not frames:
        raise DataError(f"{path}: holds no structure at index {index!r}.")
    return frames


def snapshot(atoms: Atoms) -> Atoms:
    """A copy that keeps energy, forces and stress as they were computed last, to be written or kept."""
    frame = atoms.copy()
    results = {name: atoms.calc.results[name] for name in ("energy", "forces", "stress") if name in atoms.calc.results}
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def refuse_existing(paths: Iterable[FilePath], overwrite: bool = False) -> None:
    """Raise FileExistsError where one of the files that will be written is there already, and may not be overwritten."""
    for path in paths:
        if Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path} exists already: choose another name, or allow it to be overwritten.")


@contextmanager
def recorder(
    trajectory: FilePath | None = None, log: FilePath | None = None, overwrite: bool = False
) -> Iterator[Callable[[Atoms, Any], None]]:
    """A function that takes atoms and a NamedTuple of numbers, and appends them to an extxyz trajectory and to a log of JSON lines.

    Lines are flushed as they come, so that a run can be followed and a killed one is not lost.

    Raises:
      FileExistsError: a file is there already, and `overwrite` is not set.
    """
    paths = [path for path in (trajectory, log) if path is not None]
    refuse_existing(paths, overwrite)
    with ExitStack() as stack:
        files = {path: stack.enter_context(open(path, "w", encoding="utf-8")) for path in paths}

        def record(atoms: Atoms, numbers: Any) -> None:
            if trajectory is not None:
                write(files[trajectory], snapshot(atoms), format="extxyz")
                files[trajectory].flush()
            if log is not None:
                print(json.dumps(numbers._asdict()), file=files[log], flush=True)

        yield record
