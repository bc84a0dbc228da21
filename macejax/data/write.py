"""Structures, or frames of a file as they are -> extended XYZ, with every digit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from macejax.data.labels import MACE_KEYS, Frame, Keys
from macejax.data.read import entries, from_atoms
from macejax.data.species import SYMBOLS
from macejax.data.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms


def write(
    path: str | os.PathLike[str],
    structures: Sequence[Structure | Atoms | Frame],
    keys: Keys = MACE_KEYS,
    *,
    info: Sequence[Mapping[str, Any]] | None = None,
    arrays: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Writes an extended XYZ file, whole or not at all. What is missing is left out; `read` gives the same numbers back.

    Args:
      path: the file; an older one is replaced.
      structures: what to write; of Atoms, what a Structure holds; of frames (`read_frames`), everything, under the names it has.
      keys: names of the labels, but those of frames.
      info: further values of each structure (predictions, say), numbers, text or arrays; they replace those of the same name.
      arrays: further columns of each structure, [N] or [N, n]; they replace those of the same name.
    """
    name = os.fspath(path)
    temporary = f"{name}.{os.getpid()}.part"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for number, item in enumerate(structures):
                frame = item if isinstance(item, Frame) else _frame(item if isinstance(item, Structure) else from_atoms(item, keys), keys)
                further_info = {} if info is None else info[number]
                further_arrays = {} if arrays is None else arrays[number]
                file.write(_lines(frame, {**frame.info, **further_info}, {**frame.arrays, **further_arrays}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _frame(structure: Structure, keys: Keys) -> Frame:
    return Frame(structure.numbers, structure.positions, structure.cell, structure.pbc, *entries(structure, keys), structure.source)


def _lines(frame: Frame, info: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    num_atoms = len(frame.numbers)
    columns = [np.array([SYMBOLS[number] for number in frame.numbers])[:, None], _words(frame.positions)]
    properties = "species:S:1:pos:R:3"
    for name, array in arrays.items():
        values = np.asarray(array)
        if values.ndim == 0 or len(values) != num_atoms:
            raise ValueError(f"column {name!r} has shape {values.shape} for {num_atoms} atoms.")
        values = values.reshape(num_atoms, -1)
        properties += f":{name.replace(':', '_')}:{_kind(values)}:{values.shape[1]}"
        columns.append(_words(values))
    comment = [f"Properties={_quote(properties)}"]
    if frame.cell.any():
        comment.insert(0, f'Lattice="{_text(frame.cell)}"')
    comment += [f"{_quote(key)}={_quote(_value(value))}" for key, value in info.items() if value is not None]
    comment.append(f'pbc="{_text(frame.pbc)}"')
    rows = [" ".join(row) for row in np.concatenate(columns, axis=1).tolist()]
    return "\n".join([str(num_atoms), " ".join(comment), *rows]) + "\n"


def _kind(values: np.ndarray) -> str:
    return {"f": "R", "i": "I", "u": "I", "b": "L"}.get(values.dtype.kind, "S")


def _words(values: np.ndarray) -> np.ndarray:
    words = [_text(value) for value in values.reshape(-1)]
    if _kind(values) == "S":
        words = ["_".join(word.split()) or "_" for word in words]  # blanks end a column
    return np.array(words, object).reshape(values.shape)


def _value(value: Any) -> str:
    """Text of a value of a frame: dictionaries, and lists and arrays that are no 3x3 and no row of numbers, as ASE writes them."""
    if not isinstance(value, dict):
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths, which ASE cannot read
            return str(value)
        if array.ndim == 0:
            return _text(value)
        if array.dtype.kind in "iufb" and (array.ndim == 1 or array.shape == (3, 3)):
            return _text(array)
    try:
        return f"_JSON {json.dumps(value, default=lambda entry: entry.tolist() if hasattr(entry, 'tolist') else str(entry))}"
    except (TypeError, ValueError):  # a key that is no text, or a value within itself
        return str(value)


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
    escaped = " ".join(text.splitlines()).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
