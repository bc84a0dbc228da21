"""Energies of isolated atoms, average neighbour count, scale and shift: what a model takes from its training set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from macejax.data.graph import Graph
from macejax.data.species import NUMBERS, SYMBOLS, names, species_index
from macejax.data.structure import DataError, Structure

ISOLATED = "IsolatedAtom"
SAME_E0 = 1e-6  # eV; isolated atoms of one element that differ by more contradict each other
Scaling = Literal["std_scaling", "rms_forces_scaling", "no_scaling"]


def split_isolated(structures: Sequence[Structure]) -> tuple[list[Structure], list[Structure]]:
    """Structures with config_type IsolatedAtom, and the others, which are what a model trains on.

    Raises:
      DataError: an IsolatedAtom has more than one atom.
    """
    isolated = [structure for structure in structures if structure.config_type == ISOLATED]
    for structure in isolated:
        if len(structure.numbers) != 1:
            raise DataError(f"{structure.source}: config_type is {ISOLATED}, but there are {len(structure.numbers)} atoms.")
    return isolated, [structure for structure in structures if structure.config_type != ISOLATED]


def e0s_from_isolated(structures: Sequence[Structure]) -> dict[int, float]:
    """Atomic number -> energy (eV) of the structures with config_type IsolatedAtom.

    Raises:
      DataError: one has no energy, or two of one element contradict each other.
    """
    e0s: dict[int, float] = {}
    for structure in split_isolated(structures)[0]:
        number = int(structure.numbers[0])
        if math.isnan(structure.energy):
            raise DataError(f"{structure.source}: the isolated {SYMBOLS[number]} atom has no energy.")
        if abs(e0s.setdefault(number, structure.energy) - structure.energy) > SAME_E0:
            raise DataError(
                f"{structure.source}: the isolated {SYMBOLS[number]} atom has the energy {structure.energy}, "
                f"but another frame says {e0s[number]}."
            )
    return e0s


def e0s_from_table(table: Mapping[int, float] | Mapping[str, float]) -> dict[int, float]:
    """Atomic number -> energy (eV) from a table whose keys are atomic numbers or symbols.

    Raises:
      DataError: a key is no element or stands for the same one as another; an energy is not finite.
    """
    e0s: dict[int, float] = {}
    for key, energy in table.items():
        text = str(key).strip()
        number = NUMBERS.get(text.capitalize(), int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0)
        if not 1 <= number <= 118:
            raise DataError(f"E0s: {key!r} is no element.")
        if number in e0s:
            raise DataError(f"E0s: {SYMBOLS[number]} is given twice.")
        if not math.isfinite(energy):
            raise DataError(f"E0s: the energy of {SYMBOLS[number]} is {energy}.")
        e0s[number] = float(energy)
    return e0s


def e0s_average(structures: Sequence[Structure], elements: Sequence[int]) -> dict[int, float]:
    """Atomic number -> energy (eV) that fits the labelled energies best, by least squares on the compositions.

    Where compositions do not determine them (molecules of one formula, say), this is the solution of least norm, and a warning names how
    many of them are determined. The sums of E0s over the compositions of the data set are right nevertheless.

    Raises:
      DataError: no structure has an energy.
    """
    labelled = [structure for structure in structures if not math.isnan(structure.energy)]
    if not labelled:
        raise DataError("E0s cannot be fitted: no structure has an energy.")
    return solve_e0s(compositions(labelled, elements), np.array([structure.energy for structure in labelled]), elements)


def solve_e0s(composition: np.ndarray, energies: np.ndarray, elements: Sequence[int], what: str = "E0s") -> dict[int, float]:
    """Atomic number -> energy (eV) by least squares, of least norm where the compositions do not determine it, with a warning.

    Args:
      composition: [structures, elements], number of atoms.
      energies: [structures] (eV).
      elements: atomic numbers.
      what: is solved for, as the warning says it.
    """
    solution, _, rank, _ = np.linalg.lstsq(composition, energies, rcond=None)
    if rank < len(elements):
        warnings.warn(
            f"{what} by least squares: the {len(energies)} compositions determine only {rank} of the {len(elements)} energies of "
            f"{names(elements)}; the model will be wrong on other compositions. Give E0s of isolated atoms.",
            stacklevel=3,
        )
    return dict(zip(elements, solution.tolist(), strict=True))


def compositions(structures: Sequence[Structure], elements: Sequence[int]) -> np.ndarray:
    """Number of atoms [structures, elements] of each element in each structure."""
    return np.array([_counts(structure, elements) for structure in structures], np.float64).reshape(len(structures), len(elements))


def e0_list(e0s: Mapping[int, float], elements: Sequence[int]) -> list[float]:
    """E0s (eV) in the order of `elements`.

    Raises:
      DataError: some element has none.
    """
    if missing := [number for number in elements if number not in e0s]:
        raise DataError(f"E0s: there is none for {names(missing)}; give them all, or fit them with 'average'.")
    return [e0s[number] for number in elements]


def average_neighbors(graphs: Sequence[Graph]) -> float:
    """Mean neighbour count over the atoms that have at least one (mace.modules.compute_avg_num_neighbors); 1 where no atom has any."""
    edges = sum(len(graph.receivers) for graph in graphs)
    atoms = sum(int(np.count_nonzero(graph.rank == 0)) for graph in graphs)
    return edges / atoms if atoms else 1.0


def energy_scale(structures: Sequence[Structure], elements: Sequence[int], e0s: Mapping[int, float], kind: Scaling) -> float:
    """Scale (eV) of the energies that a model learns, as mace-torch's ScaleShiftMACE (mace.modules.scaling_classes).

    | kind | scale |
    |---|---|
    | std_scaling | standard deviation (n - 1) of (E - sum of E0s) / N |
    | rms_forces_scaling | root mean square of the force components |
    | no_scaling | 1 |

    Over the labels present. A scale of zero, or one that no label determines, becomes 1 with a warning.

    Raises:
      DataError: std_scaling, and no structure has an energy.
    """
    if kind == "no_scaling":
        return 1.0
    if kind == "std_scaling":
        per_atom = _interaction_energies(structures, elements, e0s)
        if not per_atom:
            raise DataError(
                "the scale cannot be computed: no structure has an energy. Set model.scaling to rms_forces_scaling or no_scaling, or "
                "model.scale to a number."
            )
        scale = float(np.std(per_atom, ddof=1)) if len(per_atom) > 1 else 0.0
    elif kind == "rms_forces_scaling":
        forces = [structure.forces[~np.isnan(structure.forces)] for structure in structures if structure.forces is not None]
        components = np.concatenate(forces) if forces else np.zeros(1)
        scale = math.sqrt(float(np.mean(components**2)))
    else:
        raise ValueError(f"scaling must be std_scaling, rms_forces_scaling or no_scaling, not {kind!r}.")
    if scale == 0:
        warnings.warn(f"{kind}: the labels give a scale of zero; it is set to 1.", stacklevel=2)
        scale = 1.0
    return scale


def energy_shift(structures: Sequence[Structure], elements: Sequence[int], e0s: Mapping[int, float], kind: Scaling) -> float:
    """Shift (eV) of the energies that a model learns: mean of (E - sum of E0s) / N over the labels present, 0 with no_scaling.

    Raises:
      DataError: no structure has an energy.
    """
    if kind == "no_scaling":
        return 0.0
    per_atom = _interaction_energies(structures, elements, e0s)
    if not per_atom:
        raise DataError(
            "the shift cannot be computed: no structure has an energy. Set model.shift to a number, or model.scaling to no_scaling."
        )
    return float(np.mean(per_atom))


def _interaction_energies(structures: Sequence[Structure], elements: Sequence[int], e0s: Mapping[int, float]) -> list[float]:
    """(E - sum of E0s) / N (eV) of the structures that have an energy."""
    table = np.asarray(e0_list(e0s, elements))
    return [
        (structure.energy - float(_counts(structure, elements) @ table)) / len(structure.numbers)
        for structure in structures
        if not math.isnan(structure.energy)
    ]


def _counts(structure: Structure, elements: Sequence[int]) -> np.ndarray:
    return np.bincount(species_index(structure.numbers, elements, structure.source), minlength=len(elements))
