"""Structures of many files in; results, steps and numbers out, as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import write

from macejax.simulate.many.relax import Relaxed
from macejax.simulate.record import late_file, read_frames, refuse_existing, refuse_other_formats, snapshot
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
    output: Path, trajectory: Path | None, log: Path | None, others: Sequence[Path], overwrite: bool
) -> Iterator[tuple[Observe | None, Callable[[int, Relaxed], None]]]:
    """Two functions: one to be called with every step, None where nobody wants to see them, and one with every result.

    Results are appended to `output` as they come, so that a killed run is not lost, and are put in order at the end. A structure says in
    `info` which it is: `structure` (its place), `source`, `converged` and `steps`.

    Args:
      output: of the results, extended XYZ.
      trajectory, log: of the steps: extended XYZ, and JSON lines.
      others: further files that are going to be written.
      overwrite: whether files that exist may be replaced.

    Raises:
      ConfigError: `output` or `trajectory` has the ending of another format.
      FileExistsError: a file is there already, and `overwrite` is not set.
    """
    refuse_other_formats((output, trajectory))
    refuse_existing((output, trajectory, log, *others), overwrite)
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
    part = output.with_name(output.name + ".part")
    write(part, [results[place] for place in sorted(results)], format="extxyz")
    part.replace(output)


def record_each(folder: Path | str, overwrite: bool = False) -> Callable[[int, Atoms, Any], None]:
    """An `observe` for `run_many` or `relax_many` that keeps a trajectory and a log of each system in `folder`.

    System k has `k.xyz`, extended XYZ, and `k.jsonl`, the numbers of each frame as a line of JSON. Files are closed between frames: a run
    can be followed, a killed one is not lost, and there may be any number of systems.

    Raises (when called):
      FileExistsError: a file of an earlier run is there, and `overwrite` is not set.
    """
    directory = Path(folder)
    begun: set[int] = set()

    def observe(place: int, atoms: Atoms, numbers: Any) -> None:
        trajectory, log = directory / f"{place}.xyz", directory / f"{place}.jsonl"
        if place not in begun:
            directory.mkdir(parents=True, exist_ok=True)
            refuse_existing((trajectory, log), overwrite, "choose another folder")
            for path in (trajectory, log):
                path.write_text("", encoding="utf-8")
            begun.add(place)
        with open(trajectory, "a", encoding="utf-8") as frames, open(log, "a", encoding="utf-8") as lines:
            write(frames, snapshot(atoms), format="extxyz")
            print(json.dumps(numbers._asdict()), file=lines)

    return observe
