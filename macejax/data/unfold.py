"""A periodic structure as a cluster: its atoms and all images that their energies depend on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from macejax.data.neighbors import symmetric_neighbors
from macejax.data.structure import NO_CELL, OPEN, Structure, check


class Unfolded(NamedTuple):
    """A cluster without a cell. The atoms of the original come first, in their order and at their positions."""

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
    cluster = Structure(
        structure.numbers[origin], structure.positions[origin] + moves @ structure.cell, NO_CELL, OPEN, source=structure.source
    )
    return Unfolded(cluster, origin, count)
