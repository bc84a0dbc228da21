"""Files and ASE's Atoms -> Structures, and back to Atoms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from macejax.data.compressed import inner_suffix
from macejax.data.extxyz import read_extxyz
from macejax.data.labels import MACE_KEYS, PER_ATOM, Frame, Keys, label_frames
from macejax.data.structure import LABELS, DataError, Structure

if TYPE_CHECKING:
    from ase import Atoms  # imported when it is needed: it takes a while

_OWN = ("energy", "forces", "stress", "dipole", "polarizability", "charges")  # labels that ASE moves into a calculator


def read(path: str | os.PathLike[str], keys: Keys = MACE_KEYS, *, need_labels: bool = True) -> list[Structure]:
    """Structures of a file: extended XYZ (.xyz, .extxyz, and these with .gz, .bz2 or .xz), or any format that ASE reads.

    Labels are taken as they stand in the file: forces of atoms that a constraint fixes are not zeroed.

    Args:
      path: the file.
      keys: names of the labels.
      need_labels: whether a file without any label is an error.

    Raises:
      DataError: one sentence with the file, the frame (counted from 0) and the reason.
    """
    return label_frames(read_frames(path), keys, os.fspath(path), need_labels)


def read_frames(path: str | os.PathLike[str]) -> list[Frame]:
    """Frames of a file of the formats that `read` takes, with everything that it says of them; `label_frames` makes Structures of them.

    Raises:
      DataError: as `read`.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise DataError(f"{name}: there is no such file." if not os.path.exists(name) else f"{name}: is not a file.")
    if os.path.getsize(name) == 0:
        raise DataError(f"{name}: the file is empty.")
    frames = list(read_extxyz(name)) if inner_suffix(name) in (".xyz", ".extxyz") else _read_by_ase(name)
    if not frames:
        raise DataError(f"{name}: holds no structure.")
    return frames


def from_atoms(atoms: Atoms, keys: Keys = MACE_KEYS, source: str = "", *, need_labels: bool = False) -> Structure:
    """One Structure from ASE's Atoms; labels from `info`, `arrays` and the results that its calculator already holds.

    Raises:
      DataError: as `read`.
    """
    return label_frames([_frame(atoms, source)], keys, source or "atoms", need_labels)[0]


def to_atoms(structure: Structure, keys: Keys = MACE_KEYS) -> Atoms:
    """ASE's Atoms with the labels in `info` and `arrays` under the names of `keys`; no calculator."""
    from ase import Atoms

    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    info, arrays = entries(structure, keys)
    atoms.info.update(info)
    for key, array in arrays.items():
        atoms.arrays[key] = array.copy()
    return atoms


def entries(structure: Structure, keys: Keys = MACE_KEYS) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file says of a structure beside its atoms: values of the frame, and columns of the atoms. What is missing is left out."""
    default = Structure(structure.numbers, structure.positions)
    info: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in structure.inputs.items():
        (arrays if np.ndim(value) else info)[name] = value
    for field, key in keys._asdict().items():
        if field == "inputs":
            continue
        value = getattr(structure, field)
        if key is not None and not _is_absent(value, getattr(default, field)):
            (arrays if field in PER_ATOM else info)[key] = value
    for label in LABELS:
        if label in structure.weights:
            info[f"config_{label}_weight"] = structure.weights[label]
    return info, arrays


def _is_absent(value: Any, default: Any) -> bool:
    return value is None or (np.ndim(value) == 0 and (value == default or value != value))  # NaN is not itself


def _read_by_ase(name: str) -> list[Frame]:
    from ase.io import read as ase_read

    try:
        images: Sequence[Atoms] = ase_read(name, index=":")
    except Exception as error:  # ASE's readers raise whatever they stumble over
        raise DataError(f"{name}: ASE cannot read it ({type(error).__name__}: {error}).") from error
    return [_frame(atoms, f"{name}:frame {number}") for number, atoms in enumerate(images)]


def _frame(atoms: Atoms, source: str) -> Frame:
    info = dict(atoms.info)
    arrays = {key: array for key, array in atoms.arrays.items() if key not in ("numbers", "positions")}
    for name, value in _results(atoms).items():
        place = arrays if name in PER_ATOM else info
        if name in place and not np.array_equal(place[name], value):
            raise DataError(f"{source or 'atoms'}: {name!r} in the atoms and in their calculator contradict each other.")
        place[name] = value
    copies = {key: np.array(array) for key, array in arrays.items()}  # molecular dynamics moves its atoms in place
    return Frame(atoms.numbers.copy(), atoms.positions.copy(), atoms.cell.array.copy(), atoms.pbc.copy(), info, copies, source)


def _results(atoms: Atoms) -> dict[str, Any]:
    """What the calculator has computed for exactly these atoms, untouched by constraints (unlike `atoms.get_forces()`)."""
    calculator = atoms.calc
    results = getattr(calculator, "results", None)
    if not results:
        return {}
    if hasattr(calculator, "check_state") and calculator.check_state(atoms):
        return {}
    return {name: results[name] for name in _OWN if results.get(name) is not None}
