"""Structure -> structure: the transformations under which a potential must do what physics says. numpy, float64."""

from __future__ import annotations

import itertools

import numpy as np

from macejax.data.structure import Structure


def bare(structure: Structure, name: str = "") -> Structure:
    """The structure without its labels, named for error messages."""
    return Structure(
        numbers=np.asarray(structure.numbers, dtype=int),
        positions=np.asarray(structure.positions, dtype=np.float64),
        cell=np.asarray(structure.cell, dtype=np.float64),
        pbc=np.asarray(structure.pbc, dtype=bool),
        source=name or structure.source,
    )


def rotated(structure: Structure, rotation: np.ndarray) -> Structure:
    """Positions and cell turned (and inverted, where det = -1) by a matrix of O(3) [3, 3] that acts on column vectors."""
    return structure._replace(positions=structure.positions @ rotation.T, cell=structure.cell @ rotation.T)


def displaced(structure: Structure, displacement: np.ndarray) -> Structure:
    """Every atom moved by its row of a displacement [N, 3], or all by one vector [3] (Angstrom)."""
    return structure._replace(positions=structure.positions + displacement)


def strained(structure: Structure, strain: np.ndarray) -> Structure:
    """Positions and cell under a symmetric strain [3, 3]."""
    deformation = np.eye(3) + strain
    return structure._replace(positions=structure.positions @ deformation, cell=structure.cell @ deformation)


def permuted(structure: Structure, order: np.ndarray) -> Structure:
    """Atom i of the result is atom order[i] of the structure."""
    return structure._replace(numbers=structure.numbers[order], positions=structure.positions[order])


def shifted_by_cells(structure: Structure, cells: np.ndarray) -> Structure:
    """Every atom moved by a whole number of cells [N, 3] along the periodic directions."""
    return displaced(structure, (cells * structure.pbc) @ structure.cell)


def repeated(structure: Structure, times: tuple[int, int, int]) -> Structure:
    """Supercell along the periodic directions; the atoms of each copy stay together, in the order of the structure."""
    counts = np.where(structure.pbc, times, 1)
    offsets = np.array(list(itertools.product(*(range(n) for n in counts)))) @ structure.cell  # [copies, 3]
    return structure._replace(
        numbers=np.tile(structure.numbers, len(offsets)),
        positions=(offsets[:, None] + structure.positions).reshape(-1, 3),
        cell=structure.cell * counts[:, None],
    )


def recombined(structure: Structure, combination: np.ndarray) -> Structure:
    """The same crystal in the cell `combination @ cell`, for integers [3, 3] of determinant +-1 that mix periodic rows only."""
    return structure._replace(cell=combination @ structure.cell)


def joined(first: Structure, second: Structure, gap: float) -> Structure:
    """Two open structures in one, side by side with `gap` (Angstrom) of vacuum between them along x."""
    a = first.positions - first.positions.mean(axis=0)
    b = second.positions - second.positions.mean(axis=0)
    b = b + np.array([a[:, 0].max() - b[:, 0].min() + gap, 0.0, 0.0])
    return first._replace(
        numbers=np.concatenate([first.numbers, second.numbers]),
        positions=np.concatenate([a, b]),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        source=f"{first.source} + {second.source}",
    )


def random_rotation(rng: np.random.Generator, improper: bool) -> np.ndarray:
    """Uniform matrix of O(3), of determinant -1 if improper: the sign-fixed Q of a normal matrix is Haar distributed (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if (np.linalg.det(q) < 0) == improper else -q


def random_combination(rng: np.random.Generator, pbc: np.ndarray, left_handed: bool) -> np.ndarray:
    """Random integers [3, 3] of determinant +1, or -1 (left-handed), that mix the periodic rows of a cell and leave the others."""
    matrix = np.eye(3, dtype=int)
    periodic = np.flatnonzero(pbc)
    for _ in range(4 if len(periodic) > 1 else 0):
        target, source = rng.choice(periodic, size=2, replace=False)
        matrix[target] += rng.choice([-1, 1]) * matrix[source]
    if left_handed:
        matrix[rng.choice(periodic)] *= -1
    return matrix
