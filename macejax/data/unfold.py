"""A periodic structure as a cluster: its atoms and all images that their energies depend on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from macejax.data.neighbors import symmetric_neighbors
from macejax.data.structure import Structure, check


class Unfolded(NamedTuple):
    """A cluster without cell and labels, with the inputs of the original, whose atoms come first, in their order, at their positions."""

    structure: Structure
    origin: np.ndarray  # [n] int, the original atom of each
    num_original: int


def unfold(structure: Structure, reach: float) -> Unfolded:
    """All atoms of the structure, and all images within `reach` of one of them.

    Args:
      structure: periodic in any directions, or none.
      reach: Angstrom; of a model, its cutoff times the number of its layers.

    Raises:
      DataError: the structure is invalid.
    """
    structure = check(structure)
    count = len(structure.numbers)
    _, senders, shifts, _ = symmetric_neighbors(structure.positions, structure.cell, structure.pbc, reach, structure.source)
    images = np.unique(np.column_stack([senders, shifts])[(shifts != 0).any(axis=1)], axis=0).reshape(-1, 4)
    origin = np.concatenate([np.arange(count), images[:, 0]]).astype(int)
    moves = np.concatenate([np.zeros((count, 3)), images[:, 1:]])
    per_atom = {name: np.asarray(value)[origin] if np.ndim(value) else value for name, value in structure.inputs.items()}
    cluster = Structure(
        numbers=structure.numbers[origin],
        positions=structure.positions[origin] + moves @ structure.cell,
        charges=None if structure.charges is None else structure.charges[origin],
        total_charge=structure.total_charge,
        total_spin=structure.total_spin,
        head=structure.head,
        inputs=per_atom,
        source=structure.source,
    )
    return Unfolded(cluster, origin, count)
