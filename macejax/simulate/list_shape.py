"""Which shape a neighbour list must have: how many slots, which bins. On the host, where sizes may depend on data."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from ase.geometry import complete_cell

from macejax.data.batch import round_slots
from macejax.data.neighbors import MAX_NEIGHBORS, most_neighbors, symmetric_neighbors
from macejax.data.structure import DataError
from macejax.simulate.lattice import Pbc
from macejax.simulate.row_list import EMPTY, Bins, ListShape, RowList, build

HEADROOM = 1.15  # of slots and bins at first
NEAR_HEADROOM = 1.1  # of slots within the cutoff: each costs time in every step, and one too few a compilation
GROWTH = 1.25  # of what was too small
SHRINK = 1.05  # linear: what a cell may shrink before bins are too narrow
MOST_BINS = 4  # times the number of atoms; empty bins cost memory and nothing else

_build = jax.jit(build, static_argnums=0)


def shape_for(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: Pbc,
    cutoff: float,
    skin: float,
    extra: int = 0,
    near_headroom: float | None = NEAR_HEADROOM,
) -> ListShape:
    """A shape that holds this structure with some room.

    Args:
      positions: [N, 3] Angstrom.
      cell: [3, 3] Angstrom, rows.
      pbc: periodic directions.
      cutoff: Angstrom.
      skin: Angstrom, 0 or more.
      extra: further slots.
      near_headroom: slots within the cutoff, relative to those that the structure needs, at most those of the list;
        None: as many as these.

    Raises:
      DataError: positions or cell that are not finite, a cell so flat that the skin spans it, or more atoms and images than there are
        numbers.
    """
    positions, cell = np.asarray(positions, np.float64), np.asarray(cell, np.float64)
    near, degree = (
        np.bincount(symmetric_neighbors(positions, cell, np.array(pbc), radius)[0]).max(initial=0) for radius in (cutoff, cutoff + skin)
    )
    most = most_neighbors(pbc, len(positions))
    slots = round_slots(min(degree * HEADROOM, most) + extra)
    bins, reach = _bins_for(positions, cell, pbc, cutoff + skin, skin)
    occupancy = _occupancy(positions, cell, pbc, bins, cutoff + skin)
    near_slots = slots if near_headroom is None else min(round_slots(min(near * near_headroom, most) + extra), slots)
    shape = ListShape(float(cutoff), float(skin), pbc, slots, near_slots, bins, reach, _room(occupancy, len(positions)))
    images = np.prod([2 * -(-r // b) + 1 for r, b in zip(reach, bins, strict=True)])
    if len(positions) * int(images) >= EMPTY or len(positions) * shape.slots >= EMPTY:
        raise DataError(f"{len(positions)} atoms with {images} images are more than an edge number can hold.")
    return shape


def grown(shape: ListShape, rows: RowList) -> ListShape:
    """A shape that holds what overflowed: `rows` is the list that did.

    Raises:
      DataError: no atom has so many neighbours; the structure has collapsed.
    """
    degree, occupancy = int(rows.degree), int(rows.occupancy)
    most = most_neighbors(shape.pbc, len(rows.reference))
    if degree > MAX_NEIGHBORS:
        raise DataError(f"an atom has {degree} neighbours within {shape.radius} Angstrom: the structure has collapsed.")
    if degree > shape.slots:
        shape = shape._replace(slots=round_slots(min(degree * GROWTH, most)))
    if (near := int(rows.near_degree)) > shape.near_slots:
        shape = shape._replace(near_slots=min(round_slots(min(near * GROWTH, most)), shape.slots))
    if occupancy > shape.per_bin:
        shape = shape._replace(per_bin=min(int(np.ceil(occupancy * GROWTH)), len(rows.reference)))
    cell = np.asarray(rows.cell, np.float64)
    positions = _positions(rows)
    bins, reach = _bins_for(positions, cell, shape.pbc, shape.radius, shape.skin)
    if any(new > old for new, old in zip(reach, shape.reach, strict=True)) or any(b < o for b, o in zip(bins, shape.bins, strict=True)):
        fullest = _occupancy(positions, cell, shape.pbc, bins, shape.radius)
        shape = shape._replace(bins=bins, reach=reach, per_bin=max(shape.per_bin, _room(fullest, len(positions))))
    return shape


def allocate(shape: ListShape, positions: np.ndarray, cell: np.ndarray) -> RowList:
    """`build`, compiled."""
    return _build(shape, positions, cell)


def reshape(rows: RowList, shape: ListShape) -> RowList:
    """The edges of the structure that the list was made for, in another shape: it is renewed when the old one would be."""
    new = _build(shape, _positions(rows).astype(rows.reference.dtype), rows.cell)
    return replace(new, reference=rows.reference, rebuilds=rows.rebuilds)


def _positions(rows: RowList) -> np.ndarray:
    """Where the atoms [N, 3] (Angstrom) were when the list was made."""
    return np.asarray(rows.reference, np.float64) @ complete_cell(np.asarray(rows.cell, np.float64) * np.array(rows.shape.pbc)[:, None])


def _bins_for(positions: np.ndarray, cell: np.ndarray, pbc: Pbc, radius: float, skin: float) -> tuple[Bins, Bins]:
    """Bins along each direction and how many of them an edge may cross."""
    complete = complete_cell(cell * np.array(pbc)[:, None])
    inverse = np.linalg.inv(complete)
    height = 1 / np.linalg.norm(inverse, axis=0)
    extent = np.ptp(positions @ inverse, axis=0) * height
    span = np.where(pbc, height / SHRINK, extent)
    bins = np.maximum(np.floor(np.minimum(span / radius, 1e6)), 1).astype(int)
    while np.prod(bins) > max(MOST_BINS * len(positions), 1):
        bins[np.argmax(bins)] = max(bins.max() // 2, 1)
    if (flat := [h for h, p in zip(height, pbc, strict=True) if p and h <= skin]) and len(positions):
        raise DataError(f"the skin ({skin} Angstrom) must be less than the cell is thick ({min(flat):.3g} Angstrom): choose a smaller one.")
    reach = [int(np.ceil(radius * SHRINK * b / h)) if p else int(b > 1) for b, h, p in zip(bins, height, pbc, strict=True)]
    return (int(bins[0]), int(bins[1]), int(bins[2])), (reach[0], reach[1], reach[2])


def _occupancy(positions: np.ndarray, cell: np.ndarray, pbc: Pbc, bins: Bins, radius: float) -> int:
    coordinates = positions @ np.linalg.inv(complete_cell(cell * np.array(pbc)[:, None]))
    coordinates = np.where(pbc, coordinates - np.floor(coordinates), coordinates - coordinates.min(axis=0))
    width = np.where(pbc, 1 / np.array(bins), np.maximum(coordinates.max(axis=0) / bins, radius))
    place = np.clip(np.floor(coordinates / width).astype(int), 0, np.array(bins) - 1)
    return int(np.bincount(np.ravel_multi_index(tuple(place.T), bins)).max())


def _room(occupancy: int, number: int) -> int:
    return min(int(np.ceil(occupancy * HEADROOM)) + 1, number)
