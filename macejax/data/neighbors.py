"""Directed neighbour list with cell shifts: any mix of periodic directions, any cell, any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from macejax.data.search import find_pairs
from macejax.data.structure import DataError

MAX_NEIGHBORS = 100_000  # per atom; more means a cell in the wrong unit, and would exhaust the memory
AT_CUTOFF = 1e-9  # an edge this close (relative) to the cutoff may lack its reverse by rounding; it weighs nothing there


def neighbors(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, source: str = ""
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All directed pairs closer than the cutoff, images of an atom with itself included.

    The vector of an edge is `positions[sender] + shift @ cell - positions[receiver]`. Open directions are open: no cell is invented for
    them, and their cell rows, zero or not, play no role.

    Args:
      positions: [N, 3] Angstrom, anywhere.
      cell: [3, 3] Angstrom, rows are lattice vectors; those of the periodic directions are linearly independent.
      pbc: [3] bool.
      cutoff: Angstrom.
      source: what an error is about.

    Returns:
      receivers [E] int32, senders [E] int32, shifts [E, 3] int32, sorted by receiver, sender and shift. With (i, j, S) there is (j, i, -S).

    Raises:
      DataError: a number is not finite, or an atom would have more than MAX_NEIGHBORS neighbours.
    """
    return symmetric_neighbors(positions, cell, pbc, cutoff, source)[:3]


def symmetric_neighbors(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, source: str = ""
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`neighbors`, and with it `reverse` [E] int32: the place in the list of the edge (j, i, -S) of every edge (i, j, S)."""
    if not (np.isfinite(positions).all() and np.isfinite(cell).all() and 0 < cutoff < np.inf):
        raise DataError(f"{source or 'structure'}: positions, cell and cutoff must be finite, and the cutoff ({cutoff} Angstrom) positive.")
    _refuse_collapsed_cell(len(positions), cell, pbc, cutoff, source)
    wrapped, images = wrap(positions, cell, pbc)
    receivers, senders, shifts, lengths = find_pairs(wrapped, cell, pbc, cutoff)
    at_cutoff = np.abs(lengths - cutoff) <= AT_CUTOFF * max(cutoff, 1.0)
    receivers, senders, shifts, reverse = symmetric_order(receivers, senders, shifts, at_cutoff)
    return receivers, senders, shifts + images[senders] - images[receivers], reverse


def most_neighbors(pbc: Sequence[bool] | np.ndarray, number: int) -> float:
    """How many neighbours an atom among so many can have: the others, where there are no images."""
    return math.inf if np.any(pbc) else number - 1


def wrap(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions moved by whole lattice vectors into the cell along the periodic directions, and the moves.

    Returns:
      wrapped [N, 3] Angstrom and images [N, 3] int32, with `wrapped = positions + images @ cell`; images are 0 along open directions.
    """
    images = np.zeros((len(positions), 3), np.int32)
    if not pbc.any():
        return positions, images
    rows = cell[pbc]
    moves = -np.floor(positions @ np.linalg.pinv(rows))
    images[:, pbc] = moves.astype(np.int32)
    return positions + moves @ rows, images


def symmetric_order(
    receivers: np.ndarray, senders: np.ndarray, shifts: np.ndarray, at_cutoff: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges in canonical order (by receiver, sender, shift), each with its reverse.

    An edge without a reverse is dropped where `at_cutoff` [E] says that it lies at the cutoff to rounding; anywhere else it is a fault of
    the list, as is a duplicate.

    Returns:
      receivers [E], senders [E], shifts [E, 3], all int32, and reverse [E] int32: where the edge (j, i, -S) of the edge (i, j, S) is.

    Raises:
      DataError: an edge is there twice, or has no reverse.
    """
    code, mirror = _codes(receivers, senders, shifts)
    order = np.argsort(code, kind="stable")
    code, mirror = code[order], mirror[order]
    if (code[1:] == code[:-1]).any():
        raise DataError("the list of neighbours holds an edge twice.")
    reverse = np.searchsorted(code, mirror)
    paired = code[np.minimum(reverse, len(code) - 1)] == mirror if len(code) else np.zeros(0, bool)
    if not paired.all():
        if not at_cutoff[order][~paired].all():
            raise DataError("the list of neighbours holds an edge without its reverse.")
        order, code, mirror = order[paired], code[paired], mirror[paired]
        reverse = np.searchsorted(code, mirror)
    int32 = np.int32
    return receivers[order].astype(int32), senders[order].astype(int32), shifts[order].astype(int32), reverse.astype(int32)


def _codes(receivers: np.ndarray, senders: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One integer per edge and one for its reverse, ordered as (receiver, sender, shift)."""
    reach = int(np.abs(shifts).max(initial=0))
    width = 2 * reach + 1
    count = 1 + int(max(receivers.max(initial=0), senders.max(initial=0)))
    if count * count * width**3 >= 2**63:
        raise DataError(f"{count} atoms with cell shifts up to {reach} are more than an edge number can hold.")
    powers = np.array([width * width, width, 1])
    shift = (shifts + reach) @ powers
    mirrored = (reach - shifts) @ powers
    return (receivers * count + senders) * width**3 + shift, (senders * count + receivers) * width**3 + mirrored


def _refuse_collapsed_cell(num_atoms: int, cell: np.ndarray, pbc: np.ndarray, cutoff: float, source: str) -> None:
    dimension = int(pbc.sum())
    if dimension == 0:
        return
    rows = cell[pbc]
    extent = math.sqrt(max(float(np.linalg.det(rows @ rows.T)), 0.0))
    ball = {1: 2 * cutoff, 2: math.pi * cutoff**2, 3: 4 / 3 * math.pi * cutoff**3}[dimension]
    if num_atoms * ball > MAX_NEIGHBORS * extent:
        raise DataError(
            f"{source or 'structure'}: {num_atoms} atoms in a cell of {extent:.3g} Angstrom^{dimension} have more than {MAX_NEIGHBORS} "
            f"neighbours each within {cutoff} Angstrom; is the cell in another unit?"
        )
