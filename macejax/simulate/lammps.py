"""Forces for LAMMPS, through its `fix external`: a Python program that runs LAMMPS gives it a model."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from macejax.config import ConfigError
from macejax.simulate.calculator import Calculator

_ON_THIS_RANK = 1  # kind of an error of LAMMPS that not all ranks meet
_VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # LAMMPS's order


def attach(lammps: Any, calculator: Calculator, elements: Sequence[str | int], fix: str = "macejax") -> None:
    """Let LAMMPS move the atoms that it has by the model's forces, added to those of its own pair styles (`pair_style zero` has none).

    Thermo output, barostats and minimizers see the energy and the virial. With several ranks of MPI each evaluates the whole system:
    they share LAMMPS's work, not the model's. Where an evaluation fails Python prints why, and LAMMPS ends
    the program, on all ranks, as it does after errors of its own.

    Args:
      lammps: `lammps.lammps`, with units metal, an atom map (`atom_modify map array`) and all atoms created, their ids 1 to N.
      calculator: as for ASE; it keeps its neighbour list between steps.
      elements: of atom types 1, 2, ..., symbols or atomic numbers.
      fix: id of the `fix external` that is made.

    Raises:
      ConfigError: other units than metal, no atom map, an element that is none, or fewer elements than atom types.
    """
    numbers = [_number(element) for element in elements]
    units, types = lammps.extract_global("units"), lammps.extract_global("ntypes")
    if units != "metal":
        raise ConfigError(f"LAMMPS has units {units}: a model needs `units metal` (eV, Angstrom).")
    if len(numbers) != types:
        raise ConfigError(
            f"LAMMPS has {types} atom types, and there are elements for {len(numbers)}: name one for each type, in their order."
        )
    if not lammps.extract_global("map_style"):
        raise ConfigError("LAMMPS has no atom map: give it `atom_modify map array` before the box.")
    of_type = np.array([0, *numbers])
    # All of LAMMPS's atoms as they were, so that the calculator keeps its list.
    atoms = Atoms(of_type[_gather(lammps, "type", 0, 1)[:, 0]], calculator=calculator)

    def add_forces(_: Any, step: int, count: int, tags: np.ndarray, positions: np.ndarray, out: np.ndarray) -> None:
        try:
            out[:count] = evaluate()[np.asarray(tags[:count]) - 1]
        except BaseException as error:
            # LAMMPS does not hear of exceptions: without this it would go on, with no forces.
            traceback.print_exc()
            sys.stderr.flush()
            lammps.error(_ON_THIS_RANK, f"macejax at step {step}: {error!r}")

    def evaluate() -> np.ndarray:
        cell, origin, periodic = _box(lammps)
        atoms.pbc = periodic
        atoms.set_cell(cell)
        atoms.positions = _gather(lammps, "x", 1, 3) - origin
        forces = atoms.get_forces()
        lammps.fix_external_set_energy_global(fix, atoms.get_potential_energy())
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        lammps.fix_external_set_virial_global(fix, [virial[i, j] for i, j in _VOIGT])
        return forces

    lammps.command(f"fix {fix} all external pf/callback 1 1")
    lammps.command(f"fix_modify {fix} energy yes virial yes")
    lammps.set_fix_external_callback(fix, add_forces, None)


def _number(element: str | int | np.integer) -> int:
    if isinstance(element, str) and element in atomic_numbers:
        return atomic_numbers[element]
    if isinstance(element, int | np.integer) and 0 < element < len(chemical_symbols):
        return int(element)
    raise ConfigError(f"{element!r} is no element: give symbols or atomic numbers.")


def _gather(lammps: Any, name: str, kind: int, count: int) -> np.ndarray:
    """A property of all atoms of all ranks, in the order of their ids, [N, count]."""
    return np.array(lammps.gather_atoms(name, kind, count)).reshape(-1, count)


def _box(lammps: Any) -> tuple[np.ndarray, np.ndarray, list[bool]]:
    """Cell [3, 3], its corner [3] (Angstrom), and the periodic directions."""
    low, high, xy, yz, xz, periodic, _ = lammps.extract_box()
    x, y, z = np.subtract(high, low)
    return np.array([[x, 0, 0], [xy, y, 0], [xz, yz, z]]), np.array(low), [bool(p) for p in periodic]
