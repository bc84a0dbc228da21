"""Neighbour lists made inside a program: the edges of the list of the host, no lost overflow, no stale list."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from macejax.data.graph import rank_in_row
from macejax.data.neighbors import symmetric_neighbors
from macejax.data.structure import DataError
from macejax.simulate.lattice import complete_cell
from macejax.simulate.list_shape import allocate, grown, reshape, shape_for
from macejax.simulate.matrices import inverse
from macejax.simulate.row_list import RowList, is_stale, settle, update

SKIN = 0.4

renew, place, stale = jax.jit(update), jax.jit(settle), jax.jit(is_stale, static_argnames="use")


def copper(repeat: int = 2, seed: int = 1, **changes) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    atoms.rattle(0.1, seed=seed)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


def skewed() -> Atoms:
    rng = np.random.default_rng(2)
    atoms = bulk("Cu", cubic=True).repeat((3, 2, 4))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.1, (3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    atoms.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    return atoms


ZOO = {
    "crystal": copper(),
    "crystal, far away": copper(positions=copper().positions + [313.0, -211.0, 17.0]),
    "slab": copper(pbc=(True, True, False)),
    "wire": copper(pbc=(False, True, False)),
    "cluster": copper(pbc=False),
    "one atom": bulk("Cu"),
    "skewed": skewed(),
    "rhombohedral": Atoms("Bi2", [(0, 0, 0), (1, 1, 2)], cell=[[4, 0.3, 0.3], [0.3, 4, 0.3], [3.0, 3.2, 1.2]], pbc=True),
    "left-handed": copper(cell=copper().cell.array[[1, 0, 2]]),
    "needle": Atoms("Cu2", [(0, 0, 0), (0.3, 0.3, 20.0)], cell=[1.1, 1.2, 50.0], pbc=True),
    "lone atom": Atoms("Cu", [(1e4, 0, 0)]),
    "two far atoms": Atoms("Cu2", [(1e4, 0, 0), (0, 0, 0)]),
}


def pbc(atoms: Atoms) -> tuple[bool, bool, bool]:
    a, b, c = atoms.pbc.tolist()
    return a, b, c


def make(atoms: Atoms, cutoff: float, skin: float = SKIN) -> RowList:
    return allocate(shape_for(atoms.positions, atoms.cell.array, pbc(atoms), cutoff, skin), atoms.positions, atoms.cell.array)


def expected(atoms: Atoms, radius: float, slots: int) -> tuple[np.ndarray, ...]:
    """Arrays of THE CONTRACT, from the list of the host."""
    number = len(atoms)
    receivers, senders, shifts, reverse = symmetric_neighbors(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    slot = receivers * slots + rank_in_row(receivers)
    arrays = np.repeat(np.arange(number), slots), np.zeros((number * slots, 3), int), np.zeros(number * slots, bool)
    for array, values in zip(arrays, (senders, shifts, True), strict=True):
        array[slot] = values
    back = np.arange(number * slots)
    back[slot] = slot[reverse]
    return *arrays, back


def assert_same(rows: RowList, atoms: Atoms) -> None:
    found = rows.senders, rows.shift, rows.mask, rows.reverse
    for name, ours, theirs in zip(
        ("senders", "shift", "mask", "reverse"), found, expected(atoms, rows.shape.radius, rows.shape.slots), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert ours.dtype == (bool if name == "mask" else np.int32)


@pytest.mark.parametrize(("name", "radius"), [*((name, 5.5) for name in ZOO), ("crystal", 3.0), ("slab", 3.0), ("skewed", 3.0)])
def test_edges_are_those_of_the_host(name, radius):
    """Slot by slot: bins make no difference."""
    rows = make(ZOO[name], radius - SKIN)
    assert not rows.overflow
    assert_same(rows, ZOO[name])


@pytest.mark.x32
def test_float32():
    atoms = copper(positions=copper().positions - copper().positions.mean(axis=0))
    shape = shape_for(atoms.positions, atoms.cell.array, pbc(atoms), 3.0, 0.0)
    rows = allocate(shape, atoms.positions.astype(np.float32), atoms.cell.array.astype(np.float32))
    assert rows.reference.dtype == jnp.float32
    receivers = symmetric_neighbors(atoms.positions, atoms.cell.array, atoms.pbc, 3.0)[0]
    assert int(rows.mask.sum()) == len(receivers)
    slots = np.arange(len(rows.mask))
    np.testing.assert_array_equal(np.asarray(rows.reverse)[rows.reverse], slots)


def test_an_updated_list_is_a_fresh_one():
    """In jit, of atoms that wander and a cell that breathes: `reverse` is made anew with the rest."""
    rng = np.random.default_rng(3)
    atoms = copper()
    rows = make(atoms, 3.0)
    for _ in range(12):
        atoms.positions += rng.normal(0, 0.04, atoms.positions.shape)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.003, (3, 3))), scale_atoms=True)
        before = int(rows.rebuilds)
        rows = renew(rows, atoms.positions, atoms.cell.array)
        if int(rows.rebuilds) > before:
            assert_same(rows, atoms)
        assert missing(rows, atoms, 3.0) == 0
    assert 1 < int(rows.rebuilds) < 12


def missing(rows: RowList, atoms: Atoms, cutoff: float) -> int:
    """Edges within the cutoff that the list does not have."""
    senders, receivers = np.asarray(rows.senders), np.repeat(np.arange(len(atoms)), rows.shape.slots)
    positions = np.asarray(place(rows, atoms.positions, atoms.cell.array))
    lengths = np.linalg.norm(positions[senders] + np.asarray(rows.shift) @ atoms.cell.array - positions[receivers], axis=1)
    there = int(np.sum(np.asarray(rows.mask) & (lengths < cutoff)))
    return len(symmetric_neighbors(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)[0]) - there


def test_a_shrinking_cell_needs_more_images():
    """From L > 2 r_c to L < r_c, by steps; the list says when its bins are too narrow, and grows."""
    atoms = Atoms("Cu", cell=[8.2] * 3, pbc=True)
    rows, grew = make(atoms, 3.6), 0
    while atoms.cell[0, 0] > 2.2:
        atoms.set_cell(atoms.cell.array * 0.96)
        rows = renew(rows, atoms.positions, atoms.cell.array)
        if rows.overflow:
            rows = allocate(grown(rows.shape, rows), atoms.positions, atoms.cell.array)
            grew += 1
            assert_same(rows, atoms)
        assert missing(rows, atoms, 3.6) == 0
    assert grew >= 2 and rows.shape.reach[0] >= 2


def test_an_overflow_is_never_forgotten():
    """A pulse of density in the middle of a scan: the flag stays when the atoms have gone apart again."""
    atoms = copper(2, pbc=False)
    rows = make(atoms, 3.0)
    scales = jnp.asarray([1.0, 0.7, 1.0, 1.0])

    @jax.jit
    def pulse(rows):
        step = lambda rows, scale: (update(rows, scale * atoms.positions, jnp.asarray(atoms.cell.array)), None)  # noqa: E731
        return jax.lax.scan(step, rows, scales)[0]

    end = pulse(rows)
    assert end.overflow and int(end.degree) > rows.shape.slots and int(end.rebuilds) == 2
    larger = reshape(rows, grown(rows.shape, end))
    assert larger.shape.slots >= int(end.degree)
    assert_same(larger, atoms)
    end = pulse(larger)
    assert not end.overflow
    assert_same(end, atoms)


def test_a_full_bin_overflows():
    rng = np.random.default_rng(0)
    atoms = Atoms("Cu60", rng.uniform(0, 20, (60, 3)), cell=[20.0] * 3, pbc=True)
    rows = make(atoms, 3.0)
    assert max(rows.shape.bins) > 3
    atoms.positions[:] = atoms.positions / 5 + 0.2
    crowded = renew(rows, atoms.positions, atoms.cell.array)
    assert crowded.overflow and int(crowded.occupancy) > rows.shape.per_bin
    for _ in range(3):  # the degree of atoms that a bin did not hold is not known at first
        crowded = allocate(grown(crowded.shape, crowded), atoms.positions, atoms.cell.array)
    assert_same(crowded, atoms)


def test_a_list_is_stale_before_it_misses_an_edge():
    atoms = Atoms("Cu2", [(0, 0, 0), (3.41, 0, 0)])
    rows = make(atoms, 3.0)
    cell = jnp.asarray(atoms.cell.array)
    assert not rows.mask.any()
    for moved, too_far in ((0.19, False), (0.21, True)):
        positions = atoms.positions + np.array([[moved, 0, 0], [-moved, 0, 0]])
        assert bool(stale(rows, positions, cell)) == too_far
    assert stale(rows, atoms.positions + np.array([[0.1, 0, 0], [-0.1, 0, 0]]), cell, use=0.4)


@pytest.mark.parametrize("name", ["crystal", "slab", "wire"])
def test_wrapped_atoms_are_not_lost(name):
    """Other code wraps when it likes; the vectors of the edges stay."""
    atoms = ZOO[name].copy()
    rows = make(atoms, 3.0)
    before = np.asarray(place(rows, atoms.positions, atoms.cell.array))
    atoms.positions[::3] += (np.array([2, -1, 4]) * atoms.pbc) @ atoms.cell.array
    np.testing.assert_allclose(place(rows, atoms.positions, atoms.cell.array), before, atol=1e-12, rtol=0)
    assert not stale(rows, atoms.positions, atoms.cell.array)


def test_completed_cells():
    cell = jnp.asarray([[3.0, 0.2, 0.1], [0.4, 2.0, 0.3], [0.2, 0.5, 5.0]])
    for periodic in ((True, True, True), (True, True, False), (False, True, True), (False, False, True), (False, False, False)):
        complete = np.asarray(complete_cell(cell, periodic))
        open_rows = complete[~np.array(periodic)]
        np.testing.assert_array_equal(complete[np.array(periodic)], cell[np.array(periodic)])
        np.testing.assert_allclose(open_rows @ complete[np.array(periodic)].T, 0, atol=1e-14, rtol=0)
        np.testing.assert_allclose(open_rows @ open_rows.T, np.eye(len(open_rows)), atol=1e-14, rtol=0)
        np.testing.assert_allclose(np.asarray(inverse(jnp.asarray(complete))) @ complete, np.eye(3), atol=1e-14, rtol=0)


def test_refusals():
    with pytest.raises(DataError, match="skin"):
        shape_for(np.zeros((1, 3)), np.diag([0.4, 3.0, 3.0]), (True, True, True), 3.0, 0.5)
    with pytest.raises(DataError, match="finite"):
        shape_for(np.full((1, 3), np.nan), np.eye(3), (True, True, True), 3.0, 0.5)
