"""Rows 1 to 3: forces, stress and Hessian are derivatives of one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from macejax.data.batch import batch
from macejax.data.structure import Structure, volume
from macejax.testing import limits
from macejax.testing.errors import force_over_rms, largest, rms, strain_over_largest
from macejax.testing.evaluate import evaluate, exact_capacity, expected, graphs_of, near_origin, select
from macejax.testing.report import Check, worst_of
from macejax.testing.subject import Result, Subject, closest_pair, edge_lengths
from macejax.testing.transform import displaced, strained

Move = Callable[[Structure, np.ndarray], Structure]
STENCIL = np.array([-2, -1, 1, 2])
WEIGHTS = np.array([1, -8, 8, -1]) / 12  # fourth-order central difference
ALL_ATOMS = 5  # up to so many atoms every coordinate is moved; beyond, two directions
HESSIAN_ATOMS = 5


def forces(subject: Subject) -> list[Check]:
    """Row 1: F = -dE/dr. In float32: the forces of float64."""
    if not subject.is_double:
        return [_precision(subject, 1, "forces are those of float64, in rms forces", limits.FORCE_PRECISION, force_over_rms)]
    structures = select(subject, lambda structure: has_room(subject, structure))
    results = expected(subject, structures)
    rng = subject.rng(1)
    absolute, relative = [], []
    for name, structure in structures.items():
        force = results[name].forces
        directions = _directions(force, rng)
        found = -_energy_differences(subject, structure, directions, displaced, limits.FORCE_STEP)
        error = largest(found - np.einsum("dna,na->d", directions, force))
        absolute.append((error, name))
        relative.append((error / max(rms(force), limits.FORCE_FLOOR), name))
    return [
        worst_of(1, "forces are -dE/dr, in eV/A", limits.FORCE_FD_ABSOLUTE.float64, absolute),
        worst_of(1, "forces are -dE/dr, in rms forces", limits.FORCE_FD_RELATIVE.float64, relative),
    ]


def stress(subject: Subject) -> list[Check]:
    """Row 2: stress = dE/d(strain) / V, for any mix of periodic directions. In float32: that of float64."""
    if not subject.is_double:
        return [_precision(subject, 2, "dE/d(strain) is that of float64, relative", limits.STRESS_PRECISION, strain_over_largest)]
    structures = select(subject, lambda structure: has_room(subject, structure))
    return [worst_of(2, "stress is dE/d(strain) / V, in eV/A^3", limits.STRESS_FD.float64, strain_errors(subject, structures))]


def strain_errors(subject: Subject, structures: Mapping[str, Structure]) -> list[tuple[float, str]]:
    """(error, name): how far dE/d(strain) / V is from finite differences (eV/Angstrom^3); V is 1 where there is no volume."""
    results = expected(subject, structures)
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    strains = np.zeros((6, 3, 3))
    for strain, (a, b) in zip(strains, pairs, strict=True):
        strain[a, b] += 0.5
        strain[b, a] += 0.5
    errors = []
    for name, structure in structures.items():
        found = _energy_differences(subject, structure, strains, strained, limits.STRAIN_STEP)
        derivative = np.array([results[name].strain_derivative[pair] for pair in pairs])
        errors.append((largest(found - derivative) / (volume(structure.cell) or 1.0), name))
    return errors


def second_derivatives(subject: Subject) -> list[Check]:
    """Row 3: the Hessian is symmetric, equals differences of forces, and its rows sum to zero."""
    structures = select(subject, lambda structure: _is_smooth_and_small(subject, structure))
    graphs = graphs_of(subject, structures.values())
    capacity = exact_capacity(subject, graphs)._replace(nodes=HESSIAN_ATOMS + 1, graphs=2)
    symmetric, acoustic, finite = [], [], []
    for (name, structure), graph in zip(structures.items(), graphs, strict=True):
        n = len(structure.numbers)
        full = np.asarray(subject.compiled.hessian(subject.params, batch([graph], capacity, dtype=subject.dtype)))[:n, :, :n, :]
        moves = np.eye(3 * n).reshape(3 * n, n, 3)
        copies = [displaced(near_origin(subject, structure), limits.FORCE_STEP * k * move) for move in moves for k in STENCIL]
        moved = np.array([result.forces for result in evaluate(subject, copies)]).reshape(3 * n, 4, n, 3)
        difference = -np.einsum("dkna,k->dna", moved, WEIGHTS) / limits.FORCE_STEP
        symmetric.append((largest(full - full.transpose(2, 3, 0, 1)), name))
        acoustic.append((largest(full.sum(axis=2)), name))
        finite.append((largest(full.reshape(3 * n, n, 3) - difference), name))
    return [
        worst_of(3, "Hessian is symmetric, in eV/A^2", limits.HESSIAN_SYMMETRY.float64, symmetric),
        worst_of(3, "Hessian is -dF/dr, in eV/A^2", limits.HESSIAN_FD.float64, finite),
        worst_of(3, "Hessian sums to zero over atoms, in eV/A^2", limits.HESSIAN_ACOUSTIC.float64, acoustic),
    ]


def has_room(subject: Subject, structure: Structure) -> bool:
    """True where no two atoms are too close for finite differences."""
    return closest_pair(structure, subject.elements, subject.cutoff) > limits.CLOSEST_PAIR


def _is_smooth_and_small(subject: Subject, structure: Structure) -> bool:
    """Few atoms, none close, and no pair so near the cutoff, where third derivatives jump, that a difference of forces would cross it."""
    margin = 4 * limits.FORCE_STEP
    lengths = edge_lengths(structure, subject.elements, subject.cutoff + margin)
    crosses = np.any(np.abs(lengths - subject.cutoff) < margin)
    return len(structure.numbers) <= HESSIAN_ATOMS and has_room(subject, structure) and not crosses


def _precision(subject: Subject, row: int, promise: str, limit: limits.Limit, error: Callable[[Result, Result], float]) -> Check:
    results = evaluate(subject, subject.structures.values())
    known = expected(subject, subject.structures)
    found = [(error(result, known[name]), name) for name, result in zip(subject.structures, results, strict=True)]
    return worst_of(row, promise, subject.limit(limit), found)


def _directions(force: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Displacements [directions, n, 3] of norm 1: every coordinate of a small structure; else a random one and that of the force."""
    if len(force) <= ALL_ATOMS:
        return np.eye(force.size).reshape(-1, *force.shape)
    directions = np.stack([rng.normal(size=force.shape), force if rms(force) > limits.FORCE_FLOOR else rng.normal(size=force.shape)])
    return directions / np.sqrt(np.sum(directions**2, axis=(1, 2), keepdims=True))


def _energy_differences(subject: Subject, structure: Structure, directions: np.ndarray, move: Move, step: float) -> np.ndarray:
    """dE along every direction [d, ...] that `move` takes, [d], by fourth-order central differences of all copies in few batches."""
    centred = near_origin(subject, structure)
    copies = [move(centred, k * step * direction) for direction in directions for k in STENCIL]
    energies = np.array([result.energy for result in evaluate(subject, copies)]).reshape(-1, len(STENCIL))
    return energies @ WEIGHTS / step
