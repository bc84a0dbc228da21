"""Structures -> extended XYZ, with every digit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from macejax.data.labels import MACE_KEYS, Keys
from macejax.data.read import entries, from_atoms
from macejax.data.species import SYMBOLS
from macejax.data.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


def write(
    path: str | os.PathLike[str],
    structures: Sequence[Structure | Atoms],
    keys: Keys = MACE_KEYS,
    *,
    info: Sequence[Mapping[str, Any]] | None = None,
    arrays: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Writes an extended XYZ file, whole or not at all. What is missing is left out; `read` gives the same numbers back.

    Args:
      path: the file; an older one is replaced.
      structures: what to write; of Atoms, what a Structure holds.
      keys: names of the labels.
      info: further values of each structure (predictions, say), numbers, text or arrays.
      arrays: further columns of each structure, [N] or [N, n].
    """
    name = os.fspath(path)
    temporary = f"{name}.{os.getpid()}.part"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for number, item in enumerate(structures):
                structure = item if isinstance(item, Structure) else from_atoms(item, keys)
                own_info, own_arrays = entries(structure, keys)
                further_info = {} if info is None else info[number]
                further_arrays = {} if arrays is None else arrays[number]
                file.write(_frame(structure, {**own_info, **further_info}, {**own_arrays, **further_arrays}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _frame(structure: Structure, info: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    num_atoms = len(structure.numbers)
    columns = [np.array([SYMBOLS[number] for number in structure.numbers])[:, None], _words(structure.positions)]
    properties = "species:S:1:pos:R:3"
    for name, array in arrays.items():
        values = np.asarray(array)
        if values.ndim not in (1, 2) or len(values) != num_atoms:
            raise ValueError(f"column {name!r} has shape {values.shape} for {num_atoms} atoms.")
        values = values.reshape(num_atoms, -1)
        properties += f":{name}:{_kind(values)}:{values.shape[1]}"
        columns.append(_words(values))
    comment = [f"Properties={properties}"]
    if structure.cell.any():
        comment.insert(0, f'Lattice="{_text(structure.cell)}"')
    comment += [f"{_quote(key)}={_quote(_text(value))}" for key, value in info.items()]
    comment.append(f'pbc="{_text(structure.pbc)}"')
    rows = [" ".join(row) for row in np.concatenate(columns, axis=1).tolist()]
    return "\n".join([str(num_atoms), " ".join(comment), *rows]) + "\n"


def _kind(values: np.ndarray) -> str:
    return {"f": "R", "i": "I", "u": "I", "b": "L"}.get(values.dtype.kind, "S")


def _words(values: np.ndarray) -> np.ndarray:
    return np.array([_text(value) for value in values.reshape(-1)], object).reshape(values.shape)


def _text(value: Any) -> str:
    """Numbers in the fewest digits that give them back; arrays flat, in the order of their rows."""
    if np.ndim(value):
        return " ".join(_text(entry) for entry in np.asarray(value).reshape(-1))
    if isinstance(value, bool | np.bool_):
        return "T" if value else "F"
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


def _quote(text: str) -> str:
    if text and not any(mark.isspace() or mark in "\"'{}[]=,\\" for mark in text):
        return text
    escaped = " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
