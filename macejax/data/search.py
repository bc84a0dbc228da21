"""The search for pairs, by vesin, and what has to be done before vesin may be called.

Two things about vesin (0.6): it lays at most 1e5 search cells, and where the atoms fill a much shorter length along one direction than
along the others it rounds the number of cells along that one down to zero and kills the process (SIGFPE); and where some directions are
periodic and others open, its time grows with the square of the open extent. One atom that has drifted away brings both about.
"""

from __future__ import annotations

import numpy as np

MAX_CELLS = 1e5  # that vesin lays
WIDE = 20  # cutoffs; open directions wider than this are looked at for gaps
GAP = 1.01  # cutoffs; what a wider gap is narrowed to


def find_pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All directed pairs closer than the cutoff, in no particular order.

    Args:
      positions: [N, 3] Angstrom.
      cell: [3, 3] Angstrom; the rows of open directions play no role.
      pbc: [3] bool.
      cutoff: Angstrom.

    Returns:
      receivers [E], senders [E], shifts [E, 3], all int64, and lengths [E] (Angstrom).
    """
    import vesin  # here, so that importing this package stays quick

    axes = _open_axes(cell[pbc])
    extent = _extent(positions, axes)
    if extent.max(initial=0) > WIDE * cutoff:
        positions = narrow_gaps(positions, axes, GAP * cutoff)
        extent = _extent(positions, axes)
    radius = _safe_radius(cell, pbc, axes, extent, cutoff)
    box, periodic = _box(cell, pbc, axes, extent, radius)
    search = vesin.NeighborList(cutoff=radius, full_list=True, n_threads=1)
    receivers, senders, shifts, lengths = search.compute(positions, box, periodic, quantities="ijSd")
    found = receivers.astype(np.int64), senders.astype(np.int64), shifts.astype(np.int64), lengths
    if radius == cutoff:
        return found
    close = lengths < cutoff
    return found[0][close], found[1][close], found[2][close], lengths[close]


def narrow_gaps(positions: np.ndarray, axes: np.ndarray, gap: float) -> np.ndarray:
    """Positions [N, 3] with every empty stretch along the axes [n, 3] that is wider than `gap` narrowed to it.

    No two atoms closer than `gap` have such a stretch between them, so they keep their vector; the others stay farther apart than `gap`.
    """
    moved = positions
    for axis in axes:
        along = positions @ axis
        order = np.argsort(along, kind="stable")
        excess = np.maximum(np.diff(along[order]) - gap, 0.0)
        back = np.zeros(len(along))
        back[order[1:]] = np.cumsum(excess)
        moved = moved - back[:, None] * axis
    return moved


def _open_axes(rows: np.ndarray) -> np.ndarray:
    """Orthonormal vectors [3 - d, 3] perpendicular to the d periodic lattice vectors."""
    return np.eye(3) if len(rows) == 0 else np.linalg.svd(rows)[2][len(rows) :]


def _extent(positions: np.ndarray, axes: np.ndarray) -> np.ndarray:
    along = positions @ axes.T
    return along.max(axis=0) - along.min(axis=0)


def _box(cell: np.ndarray, pbc: np.ndarray, axes: np.ndarray, extent: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """What vesin is told: nothing periodic, or all, open directions then being so wide that no pair reaches across."""
    if not pbc.any():
        return np.zeros((3, 3)), pbc
    box = np.array(cell, np.float64)
    box[~pbc] = axes * (extent + 2 * radius)[:, None]
    return box, np.ones(3, bool)


def _safe_radius(cell: np.ndarray, pbc: np.ndarray, axes: np.ndarray, extent: np.ndarray, cutoff: float) -> float:
    """The cutoff, or a larger radius where with the cutoff vesin would come to lay zero cells along some direction."""
    radius = cutoff
    while True:
        if pbc.any():
            heights = 1 / np.linalg.norm(np.linalg.inv(_box(cell, pbc, axes, extent, radius)[0]), axis=0)
        else:
            heights = extent
        cells = np.maximum(heights // radius, 1.0)
        if cells.prod() <= MAX_CELLS or cells.min() * np.cbrt(MAX_CELLS / cells.prod()) >= 2:
            return radius
        radius *= 1.3
