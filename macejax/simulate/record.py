"""Structures in; a trajectory and a log of numbers out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.io.formats import UnknownFileTypeError

from macejax.config import ConfigError
from macejax.data.labels import ASE_NAMES, MACE_KEYS
from macejax.data.structure import LABELS, DataError

FilePath = str | PathLike[str]
# Endings by which other programs would take extended XYZ for what it is not.
OTHER_FORMATS = frozenset(
    ".traj .bundle .db .json .nc .h5 .hdf5 .h5md .dcd .xtc .trr .lammpstrj .pdb .cif .vasp .gz .bz2 .xz .zip .html .png".split()
)
# What `evaluate` and `train` read as labels where they are told nothing else, and what labels weigh.
LABEL_NAMES = frozenset(
    [*(getattr(MACE_KEYS, name) for name in LABELS), *ASE_NAMES.values(), *(f"config_{name}_weight" for name in LABELS)]
)
LateFile = Callable[[], TextIO]


def read_frames(path: FilePath, index: str = ":") -> list[Atoms]:
    """Structures of a file that ASE reads, velocities included. `index` selects as in ASE: "0", "-1", "::10".

    Raises:
      DataError: there is none, or the file is not understood. OSError: the file cannot be opened.
    """
    try:
        found = read(path, index)
    except StopIteration as error:
        raise DataError(f"{path}: holds no structure at index {index}.") from error
    except (UnknownFileTypeError, ValueError, IndexError, KeyError, AssertionError) as error:
        raise DataError(f"{path}: no structure could be read ({type(error).__name__}: {error}).") from error
    frames = found if isinstance(found, list) else [found]
    if not frames:
        raise DataError(f"{path}: holds no structure at index {index!r}.")
    return frames


def unlabelled(atoms: Atoms) -> Atoms:
    """A copy without reference labels, which would be read as those of wherever its atoms are moved to, and without a calculator."""
    copy = atoms.copy()
    for owner in (copy.info, copy.arrays):
        for name in LABEL_NAMES & owner.keys():
            del owner[name]
    return copy


def snapshot(atoms: Atoms) -> Atoms:
    """A copy that keeps energy, forces and stress as they were computed last, to be written or kept, in place of reference labels."""
    frame = unlabelled(atoms)
    results = {name: atoms.calc.results[name] for name in ("energy", "forces", "stress") if name in atoms.calc.results}
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


class Recorder:
    """Appends atoms to an extxyz trajectory, and a NamedTuple of numbers to a log of JSON lines; made by `recorder`."""

    def __init__(self, trajectory: LateFile | None, log: LateFile | None) -> None:
        self._trajectory, self._log = trajectory, log

    def __call__(self, atoms: Atoms, numbers: Any) -> None:
        """Append, and flush, so that a run can be followed and a killed one is not lost."""
        if self._trajectory is not None:
            write(self._trajectory(), snapshot(atoms), format="extxyz")
            self._trajectory().flush()
        if self._log is not None:
            print(json.dumps(numbers._asdict()), file=self._log(), flush=True)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, each made sure to be on the disk: what a restart begins behind."""
        found = {}
        for name, late in (("trajectory", self._trajectory), ("log", self._log)):
            if late is not None:
                file = late()
                file.flush()
                os.fsync(file.fileno())
                found[name] = os.fstat(file.fileno()).st_size
        return found


def refuse_existing(paths: Iterable[FilePath | None], overwrite: bool = False, way_out: str = "choose another name") -> None:
    """Raise FileExistsError where one of the files that will be written is there already, and may not be overwritten.

    Args:
      paths: of the files; None for one that is not wanted.
      overwrite: whether they may be replaced.
      way_out: what else may be done.
    """
    for path in paths:
        if path is not None and Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path} exists already: {way_out}, or allow it to be overwritten.")


def refuse_same(paths: Mapping[str, FilePath | None]) -> None:
    """Raise ConfigError where two outputs are one file, of which the later would destroy the earlier.

    Args:
      paths: of the files that will be written, derived ones among them, by what they are called; None for one that is not wanted.
    """
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is not None and (other := seen.setdefault(Path(path).resolve(), name)) != name:
            raise ConfigError(f"{path} would be written twice, as {other} and as {name}: give each a file of its own.")


def refuse_other_formats(paths: Iterable[FilePath | None]) -> None:
    """Raise ConfigError where a trajectory's name ends as that of another format does; None for one that is not wanted."""
    for path in paths:
        if path is not None and Path(path).suffix.lower() in OTHER_FORMATS:
            another = f"`ase convert FILE.xyz {Path(path).name}` makes the other"
            raise ConfigError(f"{path}: structures are written as extended XYZ: end the name in .xyz; {another}.")


@contextmanager
def recorder(
    trajectory: FilePath | None = None, log: FilePath | None = None, overwrite: bool = False, resume: Mapping[str, int] | None = None
) -> Iterator[Recorder]:
    """A function that takes atoms and a NamedTuple of numbers, and appends them to an extxyz trajectory and to a log of JSON lines.

    Args:
      trajectory, log: the files; None for none.
      overwrite: replace files that exist.
      resume: go on with files that exist, cut to these sizes (`Recorder.sizes`); what a killed run wrote after them is done again.

    Raises:
      ConfigError: the trajectory has the ending of another format, or both are one file.
      FileExistsError: a file is there already, and neither `overwrite` nor `resume` is set.
      DataError: a file to go on with is missing, or shorter than it was.
    """
    paths = {name: Path(path) for name, path in (("trajectory", trajectory), ("log", log)) if path is not None}
    if resume is not None and set(resume) != set(paths):
        raise DataError(f"the run wrote {_list(resume)}, not {_list(paths)}: go on as it began.")
    for name, path in paths.items():
        if resume is not None:
            size = path.stat().st_size if path.exists() else 0
            if size < resume[name]:
                raise DataError(
                    f"{path} has {size} bytes, but had {resume[name]} when the state was saved: it is not the file of that run."
                )
    refuse_other_formats([trajectory])
    refuse_same({"the trajectory": trajectory, "the log": log})
    if resume is None:
        refuse_existing(paths.values(), overwrite)
    with ExitStack() as stack:
        files = {name: stack.enter_context(late_file(path, (resume or {}).get(name, 0))) for name, path in paths.items()}
        yield Recorder(files.get("trajectory"), files.get("log"))


@contextmanager
def late_file(path: Path, size: int = 0) -> Iterator[LateFile]:
    """A function that gives the open file, cut to `size` bytes at its first call.

    What stops before then leaves an old file as it was, and no new one that the next try would have to overwrite.

    Raises:
      OSError: the file cannot be written.
    """
    existed, begun = path.exists(), False
    try:
        with open(path, "a", encoding="utf-8") as file:

            def get() -> TextIO:
                nonlocal begun
                if not begun:
                    file.truncate(size)
                    begun = True
                return file

            yield get
    finally:
        if not begun and not existed:
            path.unlink(missing_ok=True)


def _list(names: Iterable[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"
