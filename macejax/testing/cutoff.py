"""Row 9: energy, forces and their first derivatives go smoothly to zero at the cutoff."""

from __future__ import annotations

import numpy as np

from macejax.data.structure import Structure
from macejax.testing import limits
from macejax.testing.errors import energy_relative, largest
from macejax.testing.evaluate import evaluate
from macejax.testing.report import Check, worst_of
from macejax.testing.structures import bond_length
from macejax.testing.subject import Subject

DISTANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)  # Angstrom, on either side of the cutoff
CURVATURE_DISTANCE = 1e-6  # Angstrom; a jump J of the second derivative leaves a force J * distance


def smoothness(subject: Subject) -> list[Check]:
    """A dimer is pulled through the cutoff, and a third atom into the reach of a bonded pair; each side must meet the other."""
    names, inner, outer, distances = [], [], [], []
    for number in subject.elements:
        for distance in DISTANCES:
            for make in (_dimer, _third_atom):
                names.append(f"{make.__name__[1:].replace('_', ' ')} of element {number}, cutoff +- {distance:g} A")
                inner.append(make(subject, number, subject.cutoff - distance))
                outer.append(make(subject, number, subject.cutoff + distance))
                distances.append(distance)
    results = list(zip(names, evaluate(subject, inner), evaluate(subject, outer), distances, strict=True))
    steps = [a.forces - b.forces for _, a, b, _ in results]
    if subject.is_double:
        rises = [np.array(a.energy - b.energy) for _, a, b, _ in results]
        energies = [(largest(rise), n) for rise, n, d in zip(rises, names, distances, strict=True) if d < DISTANCES[0]]
        energies += [(largest(_jump(rises[k], rises[k + 2], 3)), names[k]) for k, d in enumerate(distances) if d == DISTANCES[0]]
    else:
        energies = [(energy_relative(a, b), n) for n, a, b, _ in results]
    forces = [(largest(step), n) for step, n, d in zip(steps, names, distances, strict=True) if d < DISTANCES[0]]
    forces += [(largest(_jump(steps[k], steps[k + 2], 2)), names[k]) for k, d in enumerate(distances) if d == DISTANCES[0]]
    checks = [
        worst_of(9, "energy across the cutoff, in eV", subject.limit(limits.CUTOFF_ENERGY), energies),
        worst_of(9, "forces across the cutoff, in eV/A", subject.limit(limits.CUTOFF_FORCE), forces),
    ]
    if subject.is_double:
        slopes = [(largest(a.forces - b.forces) / (2 * d), n) for n, a, b, d in results if d == CURVATURE_DISTANCE]
        checks.append(worst_of(9, "dF/dr across the cutoff, in eV/A^2", limits.CUTOFF_CURVATURE.float64, slopes))
    return checks


def _jump(far: np.ndarray, near: np.ndarray, power: int) -> np.ndarray:
    """What is left at the cutoff of differences across it at the first two of DISTANCES.

    A force with a continuous first derivative may grow with the square of the distance, and an energy with its third power: to
    3e-6 eV/Angstrom and 1e-9 eV at 1e-3 Angstrom where weights end as the polynomial cutoff alone does. That part is taken off.
    """
    growth = (DISTANCES[0] / DISTANCES[1]) ** power
    return (growth * near - far) / (growth - 1)


def _dimer(subject: Subject, number: int, distance: float) -> Structure:
    return Structure(numbers=np.array([subject.elements[0], number]), positions=np.array([[0.0, 0, 0], [distance, 0, 0]]))


def _third_atom(subject: Subject, number: int, distance: float) -> Structure:
    """A bonded pair and an atom on its axis at a distance from the nearer one, out of reach of the other."""
    positions = np.array([[-bond_length(subject.elements, subject.cutoff), 0, 0], [0.0, 0, 0], [distance, 0, 0]])
    return Structure(numbers=np.array([number, subject.elements[-1], number]), positions=positions)
