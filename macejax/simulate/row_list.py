"""Neighbour list in row form that is made inside a compiled program: any cell, any size of it, any mix of periodic directions.

Space is cut into bins. Along each direction, atoms in bins b and b + o are compared for all offsets |o| <= reach; a bin beyond the last
one is an image of another, so that one search serves a cell of many bins (a cell list, linear in the atoms) and one smaller than the cutoff
(all pairs, and as many images as it takes). Shapes are static: what does not fit raises a flag, which later updates keep.

Rows are in the order of `macejax.data.neighbors` (sender, shift), whatever the bins are: the same edges give the same arrays.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.simulate.bisect import bisect_rows
from macejax.simulate.lattice import Pbc, complete_cell, heights, needed_reach
from macejax.simulate.matrices import inverse

EMPTY = np.iinfo(np.int32).max
ROUNDING = 1e-6  # relative: what bins are wider than they must be, for an atom at a border may be counted on either side
BLOCK = 2_000_000  # candidates looked at together; bounds the memory

Bins = tuple[int, int, int]


class ListShape(NamedTuple):
    """Everything about a list that a compilation depends on."""

    cutoff: float  # Angstrom
    skin: float  # Angstrom; edges reach from 0 to cutoff + skin
    pbc: Pbc
    slots: int  # M, neighbour slots per atom
    near_slots: int  # M' of the edges up to the cutoff, which a model computes with; M at most
    bins: Bins
    reach: Bins  # neighbouring bins looked at, on either side
    per_bin: int  # atoms that a bin holds

    @property
    def radius(self) -> float:
        """How far edges reach (Angstrom)."""
        return self.cutoff + self.skin


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowList:
    """A neighbour list of N atoms. Edge arrays are those of THE CONTRACT (macejax/README.md)."""

    senders: jax.Array  # [N*M] int32
    shift: jax.Array  # [N*M, 3] int32
    mask: jax.Array  # [N*M] bool
    reverse: jax.Array  # [N*M] int32
    reference: jax.Array  # [N, 3] coordinates in the completed cell for which the edges were found
    cell: jax.Array  # [3, 3] Angstrom, rows; then
    overflow: jax.Array  # [] bool: some edge was lost, at any update since the list was allocated
    degree: jax.Array  # [] int32: the most neighbours an atom ever had
    near_degree: jax.Array  # [] int32: the most within the cutoff, whenever somebody looked
    occupancy: jax.Array  # [] int32: the most atoms a bin ever had
    rebuilds: jax.Array  # [] int32
    shape: ListShape = field(metadata={"static": True})


def build(shape: ListShape, positions: jax.Array, cell: jax.Array) -> RowList:
    """All edges up to `shape.radius`.

    Args:
      positions: [N, 3] Angstrom, anywhere.
      cell: [3, 3] Angstrom, rows; those of open directions play no role.
    """
    number = len(positions)
    complete = complete_cell(cell, shape.pbc)
    reference = positions @ inverse(complete)
    images = jnp.where(np.array(shape.pbc), -jnp.floor(reference), 0)
    wrapped = positions + images @ complete
    images = images.astype(jnp.int32)
    place, fit = _bins(shape, reference + images, complete)
    table, occupancy = _fill(shape, place)
    codes, degree = _search(shape, place, table, wrapped, complete)
    senders, shift, mask, reverse = _decode(shape, codes, images)
    overflow = ~fit | (degree > shape.slots) | (occupancy > shape.per_bin)
    assert senders.shape == (number * shape.slots,)
    return RowList(senders, shift, mask, reverse, reference, cell, overflow, degree, jnp.int32(0), occupancy, jnp.int32(0), shape)


def update(rows: RowList, positions: jax.Array, cell: jax.Array, use: float = 1.0) -> RowList:
    """The list itself while it holds every pair within the cutoff; else a new one of the same shape, which remembers an overflow.

    Args:
      use: part of the skin that may be used up before the list is renewed; less than 1 where energies come before the update.
    """

    def again(_: None) -> RowList:
        new = build(rows.shape, positions, cell)
        return replace(
            new,
            overflow=rows.overflow | new.overflow,
            degree=jnp.maximum(rows.degree, new.degree),
            near_degree=rows.near_degree,
            occupancy=jnp.maximum(rows.occupancy, new.occupancy),
            rebuilds=rows.rebuilds + 1,
        )

    return jax.lax.cond(is_stale(rows, positions, cell, use), again, lambda _: rows, None)


def watched(rows: RowList, near_degree: jax.Array) -> RowList:
    """The list, told how many neighbours within the cutoff an atom has at most: where that is more than there are slots, it overflows."""
    overflow = rows.overflow | (near_degree > rows.shape.near_slots)
    return replace(rows, overflow=overflow, near_degree=jnp.maximum(rows.near_degree, near_degree))


def near_degree(rows: RowList, positions: jax.Array, cell: jax.Array) -> jax.Array:
    """The most edges within the cutoff, and what rounding could take for it, that an atom has in the list, [] int32."""
    number, shape = len(positions), rows.shape
    settled = settle(rows, positions, cell)
    lattice = jnp.matmul(rows.shift.astype(positions.dtype), cell, precision=jax.lax.Precision.HIGHEST)
    vectors = settled[rows.senders] - jnp.repeat(settled, shape.slots, axis=0) + lattice
    near = rows.mask & ~(jnp.sum(vectors**2, axis=-1) > (shape.cutoff * (1 + ROUNDING)) ** 2)
    return jnp.max(jnp.sum(near.reshape(number, shape.slots), axis=1)).astype(jnp.int32)


def is_stale(rows: RowList, positions: jax.Array, cell: jax.Array, use: float = 1.0) -> jax.Array:
    """Whether a pair within the cutoff may be missing, [] bool; with `use` below 1, whether that part of the skin is used up."""
    pbc, shape = rows.shape.pbc, rows.shape
    now, then = complete_cell(cell, pbc), complete_cell(rows.cell, pbc)
    _, delta = _displacements(rows, positions, now)
    farthest = jnp.sqrt(jnp.max(jnp.sum((delta @ now) ** 2, axis=1)))
    return needed_reach(shape.cutoff, farthest, now, then) > shape.cutoff + use * shape.skin


def settle(rows: RowList, positions: jax.Array, cell: jax.Array) -> jax.Array:
    """Positions [N, 3] in those images of which the shifts of the edges speak; other code may wrap atoms into the cell whenever it likes.

    A derivative by the cell sees the images as what they are, multiples of the lattice vectors.
    """
    if not any(rows.shape.pbc):
        return positions
    complete = complete_cell(cell, rows.shape.pbc)
    images, _ = _displacements(rows, jax.lax.stop_gradient(positions), jax.lax.stop_gradient(complete))
    return positions + images @ complete


def _displacements(rows: RowList, positions: jax.Array, complete: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lattice vectors [N, 3] to be added to the positions, and coordinates [N, 3] by which atoms then moved since the list was made."""
    delta = positions @ inverse(complete) - rows.reference
    images = jnp.where(np.array(rows.shape.pbc), -jnp.round(delta), 0)
    return images, delta + images


def _bins(shape: ListShape, coordinates: jax.Array, complete: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bin [N, 3] of every atom, and whether bins are wide enough for the offsets that are looked at."""
    periodic, bins = np.array(shape.pbc), np.array(shape.bins, np.int32)
    radius = shape.radius * (1 + ROUNDING)
    lowest, highest = jnp.min(coordinates, axis=0), jnp.max(coordinates, axis=0)
    width = jnp.maximum((highest - lowest) / bins, radius)  # of open directions; the last bin is endless
    place = jnp.floor(jnp.where(periodic, coordinates * bins, (coordinates - lowest) / width))
    wide = jnp.where(periodic, heights(complete) / bins * np.array(shape.reach) >= radius, True)
    return jnp.clip(place.astype(jnp.int32), 0, bins - 1), jnp.all(wide)


def _fill(shape: ListShape, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Atoms of every bin [bins, per_bin] int32, -1 where there is none, and how many the fullest holds. A sort; no scatter."""
    number, strides = len(place), _strides(shape.bins)
    flat = place @ strides
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    edges = jnp.searchsorted(flat[order], jnp.arange(int(np.prod(shape.bins)) + 1)).astype(jnp.int32)
    start, count = edges[:-1], edges[1:] - edges[:-1]
    rank = jnp.arange(shape.per_bin, dtype=jnp.int32)
    atoms = order[jnp.minimum(start[:, None] + rank, number - 1)]
    return jnp.where(rank < count[:, None], atoms, -1), jnp.max(count)


def _search(shape: ListShape, place: jax.Array, table: jax.Array, wrapped: jax.Array, complete: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The edges of every atom as ascending codes [N, M] int32, `EMPTY` behind them, and the most that an atom has."""
    bins, periodic = np.array(shape.bins, np.int32), np.array(shape.pbc)
    offsets = np.array(list(itertools.product(*(range(-r, r + 1) for r in shape.reach))), np.int32)
    strides, (span, middle) = _strides(shape.bins), _shift_code(shape)
    most = np.int32(span.prod())

    def of_atom(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        target = place[i] + offsets
        image = jnp.floor_divide(target, bins)  # [O, 3]
        inside = jnp.all((image == 0)[:, ~periodic], axis=1)  # of open directions; of periodic ones, every bin is
        sender = table[(target - image * bins) @ strides]  # [O, per_bin]
        # In this order the vector of the reversed edge is the exact negative, so that both are in the list, or neither.
        r = (wrapped[sender] - wrapped[i]) + (image.astype(wrapped.dtype) @ complete)[:, None]
        itself = (sender == i) & jnp.all(image == 0, axis=1)[:, None]
        near = (jnp.sum(r**2, axis=-1) < shape.radius**2) & inside[:, None] & (sender >= 0) & ~itself
        code = sender * most + ((image + middle) @ _strides(span))[:, None]
        rank = jnp.cumsum(near.ravel().astype(jnp.int32))
        found = jnp.searchsorted(rank, jnp.arange(1, shape.slots + 1))
        kept = jnp.where(jnp.arange(shape.slots) < rank[-1], code.ravel()[jnp.minimum(found, rank.size - 1)], EMPTY)
        return jnp.sort(kept), rank[-1]

    together = max(BLOCK // (len(offsets) * shape.per_bin), 1)
    codes, degrees = jax.lax.map(of_atom, jnp.arange(len(place), dtype=jnp.int32), batch_size=min(together, len(place)))
    return codes, jnp.max(degrees)


def _decode(shape: ListShape, codes: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """senders, shift, mask and reverse of the rows. The reverse of (i, j, S) is found in row j by bisection, for rows are sorted.

    An edge at the very end of the list may lack its reverse by rounding; it weighs nothing, and is left out.
    """
    number, slots = codes.shape
    span, middle = _shift_code(shape)
    most = np.int32(span.prod())
    own = jnp.arange(number, dtype=jnp.int32)[:, None]
    real = codes < EMPTY
    senders = jnp.where(real, codes // most, own)
    code = codes % most
    mirrored = own * most + (most - 1 - code)
    reverse = senders * slots + jnp.minimum(bisect_rows(codes, senders, mirrored), slots - 1)
    mask = real & (codes.ravel()[reverse] == mirrored)
    senders = jnp.where(mask, senders, own)
    shift = code[..., None] // _strides(span) % span - middle + images[senders] - images[:, None]
    reverse = jnp.where(mask, reverse, own * slots + jnp.arange(slots, dtype=jnp.int32))
    return senders.ravel(), jnp.where(mask[..., None], shift, 0).reshape(-1, 3), mask.ravel(), reverse.ravel()


def _shift_code(shape: ListShape) -> tuple[np.ndarray, np.ndarray]:
    """How many cell shifts there are along each direction [3] int32, and the place of shift 0 among them."""
    middle = np.array([-(-r // b) if p else 0 for r, b, p in zip(shape.reach, shape.bins, shape.pbc, strict=True)], np.int32)
    return 2 * middle + 1, middle


def _strides(sizes: tuple[int, ...] | np.ndarray) -> np.ndarray:
    return np.array([sizes[1] * sizes[2], sizes[2], 1], np.int32)
