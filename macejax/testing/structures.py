"""Small structures of given elements, from one atom to slabs and skewed crystals: what a potential is tried on when no others are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from macejax.data.structure import Structure

FCC = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]) / np.sqrt(2)  # primitive vectors of length 1
OPEN = (False, False, False)


def default_structures(elements: Sequence[int], cutoff: float) -> dict[str, Structure]:
    """Named structures of the elements, 1 to 8 atoms each, whose distances suit the elements and fit the cutoff (Angstrom)."""
    rng = np.random.default_rng(0)
    length = bond_length(elements, cutoff)
    cycle = np.resize(np.asarray(elements), 8)
    cluster = length * np.array([[0, 0, 0], [1.0, 0.1, 0], [-0.3, 1.0, 0.1], [0.1, -0.4, 1.0], [1.2, 1.1, 0.6]])
    rock_salt = length * 1.2 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]])
    slab = np.concatenate([cluster[:2], cluster[3:]])
    made = {
        "dimer": _make(cycle[:2], [[0, 0, 0], [length, 0, 0]]),
        "cluster": _make(cycle[:5], cluster),
        "fcc": _make(cycle[:1], [[0, 0, 0]], 1.2 * length * FCC, True),
        "rattled crystal": _make(cycle, rock_salt + 0.1 * length * rng.normal(size=(8, 3)), 2.4 * length * np.eye(3), True),
        "sheared crystal": _make(cycle[:3], cluster[:3], length * np.array([[2.1, 0.0, 0.0], [0.9, 1.9, 0.0], [-0.5, 0.8, 2.0]]), True),
        "left-handed crystal": _make(cycle[:2], cluster[:2], length * np.array([[0.0, 1.6, 0.1], [1.7, 0.0, 0.0], [0.2, 0.0, 1.5]]), True),
        "rhombohedral, 10 degrees": _make(cycle[:1], [[0, 0, 0]], _rhombohedral(length, 10.0), True),
        "slab": _make(cycle[:4], slab, length * np.diag([2.2, 2.5, 0.0]), (True, True, False)),
        "slab with a third vector": _make(
            cycle[:4], slab, length * np.array([[2.2, 0, 0], [0.4, 2.5, 0], [0, 0.3, 9.0]]), (True, True, False)
        ),
        "wire": _make(cycle[:3], cluster[:3], length * np.diag([0.0, 0.0, 1.7]), (False, False, True)),
        "molecule in a cell": _make(cycle[:4], cluster[:4], np.eye(3)),
        "cluster far from the origin": _make(cycle[:5], cluster + 1e4),
        "two fragments": _make(cycle[:4], np.concatenate([cluster[:2], cluster[:2] + 40.0])),
        "atom in a large cell": _make(cycle[:1], [[0.3, 0.2, 0.1]], (2 * cutoff + 1) * np.eye(3), True),
    }
    return {name: structure._replace(source=name) for name, structure in made.items()}


def dense_crystal(element: int, cutoff: float) -> Structure:
    """One-atom fcc cell with vectors of a quarter of the cutoff: every atom is its own neighbour, some hundreds of times."""
    return _make([element], [[0, 0, 0]], cutoff / 4 * FCC, True)._replace(source="dense fcc")


def bond_length(elements: Sequence[int], cutoff: float) -> float:
    """A distance (Angstrom) that neighbours of these elements may have, at most 0.4 of the cutoff."""
    from ase.data import covalent_radii

    return min(2 * float(np.mean([covalent_radii[z] for z in elements])), 0.4 * cutoff)


def _make(numbers: Sequence[int], positions: object, cell: object = None, pbc: object = OPEN) -> Structure:
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    pbc = np.full(3, pbc) if isinstance(pbc, bool) else np.asarray(pbc)
    return Structure(numbers=np.asarray(numbers, dtype=int), positions=np.asarray(positions, dtype=np.float64), cell=cell, pbc=pbc)


def _rhombohedral(shortest: float, angle: float) -> np.ndarray:
    """Cell with three equal angles (degrees) whose shortest lattice vectors, the differences of its rows, have a given length."""
    cosine = np.cos(np.radians(angle))
    gram = (1 - cosine) * np.eye(3) + cosine
    edge = shortest / np.sqrt(2 * (1 - cosine))
    return edge * np.linalg.cholesky(gram)
