"""One labelled configuration. What is missing is None or NaN, never 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

LABELS = ("energy", "forces", "stress", "virials", "dipole", "polarizability")
FARTHEST = 1e7  # Angstrom; farther out, float64 resolves no more than 1e-9 Angstrom, and the file is wrong anyway
DEGENERATE = 1e-6  # a cell is singular where its volume is less than this part of the product of the lengths of its rows
ASYMMETRIC = 1e-2  # a stress or virial that differs from its transpose by more than this part of its largest entry is damaged
DISAGREE = 1e-2  # stress and -virials / volume that differ by more than this part of the largest entry contradict each other
DISAGREE_ABSOLUTE = 1e-4  # eV/Angstrom^3, about 0.016 GPa: rounding of printed labels


NO_CELL, OPEN = np.zeros((3, 3)), np.zeros(3, bool)
NO_CELL.setflags(write=False)  # they are default values, shared by all structures
OPEN.setflags(write=False)


class DataError(ValueError):
    """Input that cannot be used. The message names the file, the frame and the reason."""


class Structure(NamedTuple):
    """A configuration of N atoms and its labels, in numpy float64; units and signs of THE CONTRACT (macejax/README.md)."""

    numbers: np.ndarray  # [N] int, atomic numbers
    positions: np.ndarray  # [N, 3] Angstrom
    cell: np.ndarray = NO_CELL  # [3, 3] Angstrom, rows are lattice vectors, zero where there is none
    pbc: np.ndarray = OPEN  # [3] bool
    energy: float = math.nan  # eV, total
    forces: np.ndarray | None = None  # [N, 3] eV/Angstrom, NaN where a component is missing
    stress: np.ndarray | None = None  # [3, 3] eV/Angstrom^3, ASE's sign
    virials: np.ndarray | None = None  # [3, 3] eV, -volume * stress
    dipole: np.ndarray | None = None  # [3] e Angstrom, or Debye for the models that learn it so (ModelConfig.dipole_unit)
    polarizability: np.ndarray | None = None  # [3, 3], in whichever unit; the model learns it
    charges: np.ndarray | None = None  # [N] e
    head: str = "Default"
    total_charge: float = 0.0  # e
    total_spin: float = 1.0  # multiplicity, as MACE counts it
    inputs: Mapping[str, float | np.ndarray] = MappingProxyType({})  # what else a model may read, by name: a number, or a row per atom
    config_type: str = "Default"
    weight: float = 1.0  # of the structure in the loss
    weights: Mapping[str, float] = MappingProxyType({})  # of each of LABELS; 1 where absent
    source: str = ""  # "file.xyz:frame 12", counted from 0; starts every error


def check(structure: Structure) -> Structure:
    """The same structure in canonical dtypes and shapes, or a DataError that says what is wrong with it.

    Stress, virials and polarizability are returned symmetric. A label that is NaN throughout becomes None.
    """
    where = structure.source or "structure"
    numbers = _numbers(structure.numbers, where)
    num_atoms = len(numbers)
    cell = _finite(structure.cell, (3, 3), "cell", where)
    pbc = np.asarray(structure.pbc)
    if pbc.shape != (3,) or pbc.dtype != bool:
        raise DataError(f"{where}: pbc must be three booleans, not {structure.pbc!r}.")
    if pbc.any() and relative_volume(cell[pbc]) < DEGENERATE:
        raise DataError(f"{where}: the cell has no volume along its periodic directions (pbc {_tf(pbc)}, cell {cell.tolist()}).")
    checked = structure._replace(
        numbers=numbers,
        positions=_finite(structure.positions, (num_atoms, 3), "positions", where),
        cell=cell,
        pbc=pbc,
        energy=_scalar_label(structure.energy, "energy", where),
        forces=_label(structure.forces, (num_atoms, 3), "forces", where),
        stress=_symmetric(_label(structure.stress, (3, 3), "stress", where), "stress", where),
        virials=_symmetric(_label(structure.virials, (3, 3), "virials", where), "virials", where),
        dipole=_label(structure.dipole, (3,), "dipole", where),
        polarizability=_symmetric(_label(structure.polarizability, (3, 3), "polarizability", where), "polarizability", where),
        charges=_label(structure.charges, (num_atoms,), "charges", where),
        total_charge=_finite_scalar(structure.total_charge, "total_charge", where),
        total_spin=_finite_scalar(structure.total_spin, "total_spin", where),
        weight=_weight(structure.weight, "weight", where),
        weights={name: _weight(value, f"weight of {name}", where) for name, value in structure.weights.items()},
    )
    if unknown := set(checked.weights) - set(LABELS):
        raise DataError(f"{where}: weights of unknown labels {sorted(unknown)}; there are {', '.join(LABELS)}.")
    _stress_agrees(checked, where)
    return checked


def volume(cell: np.ndarray) -> float:
    """abs(det cell) in Angstrom^3, 0 where the cell is singular."""
    return abs(float(np.linalg.det(cell))) if relative_volume(cell) >= DEGENERATE else 0.0


def relative_volume(rows: np.ndarray) -> float:
    """Volume (area, length) that 1 to 3 vectors [d, 3] span, over the product of their lengths: 1 if orthogonal, 0 if dependent."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    if not np.all(lengths > 1e-6):  # Angstrom
        return 0.0
    unit = rows / lengths[:, None]
    return math.sqrt(max(float(np.linalg.det(unit @ unit.T)), 0.0)) if len(rows) < 3 else abs(float(np.linalg.det(unit)))


def _numbers(value: object, where: str) -> np.ndarray:
    numbers = np.asarray(value)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise DataError(f"{where}: a structure needs at least one atom; its atomic numbers have shape {numbers.shape}.")
    if numbers.dtype.kind not in "iu":
        raise DataError(f"{where}: atomic numbers must be integers, not {numbers.dtype}.")
    bad = numbers[(numbers < 1) | (numbers > 118)]
    if len(bad):
        raise DataError(f"{where}: atomic number {bad[0]} is no element; elements go from 1 to 118.")
    return numbers.astype(np.int32)


def _array(value: object, shape: tuple[int, ...], name: str, where: str) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {name} must be numbers.") from None
    if array.shape != shape:
        raise DataError(f"{where}: {name} has shape {array.shape} instead of {shape}.")
    return array


def _finite(value: object, shape: tuple[int, ...], name: str, where: str) -> np.ndarray:
    array = _array(value, shape, name, where)
    if not np.isfinite(array).all():
        raise DataError(f"{where}: {name} holds {array[~np.isfinite(array)].flat[0]} at index {_first(~np.isfinite(array))}.")
    if name in ("positions", "cell") and np.abs(array).max() > FARTHEST:
        raise DataError(f"{where}: {name} reach {np.abs(array).max():.3g} Angstrom; is the unit right?")
    return array


def _label(value: object, shape: tuple[int, ...], name: str, where: str) -> np.ndarray | None:
    """A label may be missing (None, or NaN), entry by entry where its shape is per atom; it is never infinite."""
    if value is None:
        return None
    array = _array(value, shape, name, where)
    if np.isinf(array).any():
        raise DataError(f"{where}: {name} is infinite at index {_first(np.isinf(array))}; a missing label is NaN or absent.")
    missing = np.isnan(array)
    if missing.all():
        return None
    if missing.any() and name not in ("forces", "charges"):
        raise DataError(f"{where}: {name} is partly NaN; give all of it or none.")
    return array


def _scalar_label(value: object, name: str, where: str) -> float:
    label = _label(value, (), name, where)
    return math.nan if label is None else float(label)


def _finite_scalar(value: object, name: str, where: str) -> float:
    return float(_finite(value, (), name, where))


def _weight(value: object, name: str, where: str) -> float:
    weight = _finite_scalar(value, name, where)
    if weight < 0:
        raise DataError(f"{where}: {name} is {weight}; a weight is 0 or more.")
    return weight


def _symmetric(tensor: np.ndarray | None, name: str, where: str) -> np.ndarray | None:
    if tensor is None:
        return None
    if np.abs(tensor - tensor.T).max() > ASYMMETRIC * np.abs(tensor).max():
        raise DataError(f"{where}: {name} is not symmetric: {tensor.tolist()}.")
    return (tensor + tensor.T) / 2


def _stress_agrees(structure: Structure, where: str) -> None:
    if structure.stress is None:
        return
    size = volume(structure.cell)
    if size == 0:
        raise DataError(f"{where}: has a stress, but its cell has no volume to which the stress could refer; give virials instead.")
    if structure.virials is None:
        return
    implied = -structure.virials / size
    tolerance = DISAGREE_ABSOLUTE + DISAGREE * np.abs(structure.stress).max()
    if np.abs(structure.stress - implied).max() > tolerance:
        flipped = np.abs(structure.stress + implied).max() <= tolerance
        hint = (
            " Their signs differ: virials are -volume * stress, and a stress is positive when the crystal wants to shrink."
            if flipped
            else ""
        )
        raise DataError(f"{where}: stress and virials contradict each other; virials must be -volume * stress.{hint}")


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0]) if mask.ndim else ()


def _tf(pbc: np.ndarray) -> str:
    return "".join("T" if p else "F" for p in pbc)
