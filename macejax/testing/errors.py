"""Distances between results, and the comparison that most rows are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from macejax.data.structure import Structure
from macejax.testing.evaluate import evaluate
from macejax.testing.limits import FORCE_FLOOR, STRAIN_FLOOR, UNIT, Limit
from macejax.testing.report import Check, worst_of
from macejax.testing.subject import Result, Subject


class Case(NamedTuple):
    """A structure whose result is known without the potential being asked."""

    name: str
    structure: Structure
    expected: Result


def rms(forces: np.ndarray) -> float:
    """Root mean square of a force component (eV/Angstrom)."""
    return float(np.sqrt(np.mean(forces**2)))


def largest(x: np.ndarray) -> float:
    """Largest absolute value, NaN if there is one, 0 of nothing."""
    return float(np.max(np.abs(x), initial=0.0))


def energy_per_atom(result: Result, expected: Result) -> float:
    """Error of the energy, eV/atom."""
    return abs(result.energy - expected.energy) / len(expected.node_energy)


def energy_relative(result: Result, expected: Result) -> float:
    """Error of the energy relative to it, or to the virial."""
    return abs(result.energy - expected.energy) / max(abs(expected.energy), largest(expected.strain_derivative), UNIT)


def force_absolute(result: Result, expected: Result) -> float:
    """Largest error of a force component, eV/Angstrom."""
    return largest(result.forces - expected.forces)


def force_over_rms(result: Result, expected: Result) -> float:
    """Largest error of a force component, beyond what rounding makes of the terms, in units of the rms force."""
    return _force_error(result, expected) / max(rms(expected.forces), FORCE_FLOOR)


def force_relative(result: Result, expected: Result) -> float:
    """Largest error of a force component, beyond what rounding makes of the terms, relative to the largest, or absolute where that is
    small.
    """
    return _force_error(result, expected) / max(largest(expected.forces), UNIT)


def strain_relative(result: Result, expected: Result) -> float:
    """Largest error of dE/d(strain), beyond what rounding makes of the terms, relative to its largest component, or absolute where that
    is small.
    """
    return _strain_error(result, expected) / max(largest(expected.strain_derivative), UNIT)


def strain_over_largest(result: Result, expected: Result) -> float:
    """Largest error of dE/d(strain), beyond what rounding makes of the terms, in units of its largest component."""
    return _strain_error(result, expected) / max(largest(expected.strain_derivative), STRAIN_FLOOR)


def _force_error(result: Result, expected: Result) -> float:
    return largest(_beyond(np.abs(result.forces - expected.forces), expected.force_resolution[:, None]))


def _strain_error(result: Result, expected: Result) -> float:
    return largest(_beyond(np.abs(result.strain_derivative - expected.strain_derivative), expected.strain_resolution))


def _beyond(errors: np.ndarray, resolution: np.ndarray | float) -> np.ndarray:
    """Errors less what cannot be resolved. NaN stays NaN."""
    return np.maximum(errors - resolution, 0.0)


RELATIVE = {"energy": energy_relative, "forces": force_relative, "dE/d(strain)": strain_relative}


def agree(subject: Subject, row: int, promise: str, limit: Limit, cases: Sequence[Case], *, cutoff: float | None = None) -> list[Check]:
    """Energy, forces and dE/d(strain) of every case equal the expected ones, relative to their size."""
    results = evaluate(subject, [case.structure for case in cases], cutoff=cutoff)
    return compare(subject, row, promise, limit, [(case.name, result, case.expected) for case, result in zip(cases, results, strict=True)])


def compare(subject: Subject, row: int, promise: str, limit: Limit, found: Sequence[tuple[str, Result, Result]]) -> list[Check]:
    """As `agree`, for results that are there already: (name, result, expected)."""
    threshold = subject.limit(limit)
    return [
        worst_of(row, f"{quantity} {promise}", threshold, [(error(result, expected), name) for name, result, expected in found])
        for quantity, error in RELATIVE.items()
    ]
