"""The neighbour list against brute force over images and against ASE's, on the zoo and on random cells."""

from __future__ import annotations

import sys

import ase.neighborlist
import numpy as np
import pytest

from macejax.data.neighbors import AT_CUTOFF, neighbors, symmetric_neighbors, symmetric_order, wrap
from macejax.data.structure import DataError, relative_volume
from tests import structures as zoo

EDGE_VECTORS = 1e-9  # Angstrom


def brute_force(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> set[tuple[int, ...]]:
    """(receiver, sender, shift) of all pairs within the cutoff, from all images that could matter."""
    wrapped, images = wrap(positions, cell, pbc)
    spans = [np.zeros(1, int)] * 3
    rows = cell[pbc]
    if len(rows):
        heights = 1 / np.linalg.norm(np.linalg.pinv(rows), axis=0)
        for axis, height in zip(np.flatnonzero(pbc), heights, strict=True):
            reach = int(np.ceil(cutoff / height)) + 1
            spans[axis] = np.arange(-reach, reach + 1)
    found = set()
    for shift in np.stack(np.meshgrid(*spans, indexing="ij"), -1).reshape(-1, 3):
        vectors = wrapped[None, :] + shift @ cell - wrapped[:, None]
        close = np.linalg.norm(vectors, axis=-1) < cutoff
        if not shift.any():
            np.fill_diagonal(close, False)
        for i, j in np.argwhere(close):
            found.add((int(i), int(j), *(shift + images[j] - images[i]).tolist()))
    return found


def as_set(receivers: np.ndarray, senders: np.ndarray, shifts: np.ndarray) -> set[tuple[int, ...]]:
    edges = {(int(i), int(j), *map(int, shift)) for i, j, shift in zip(receivers, senders, shifts, strict=True)}
    assert len(edges) == len(receivers)
    return edges


@pytest.mark.parametrize("name", zoo.ZOO)
def test_equals_brute_force_and_ase(name: str) -> None:
    image = zoo.atoms(name)
    cell, pbc = np.asarray(image.cell), image.pbc
    found = as_set(*neighbors(image.positions, cell, pbc, zoo.CUTOFF))
    assert found == brute_force(image.positions, cell, pbc, zoo.CUTOFF)
    i, j, shift = ase.neighborlist.neighbor_list("ijS", image, zoo.CUTOFF)
    assert found == as_set(i, j, shift)


@pytest.mark.parametrize("seed", range(40))
def test_equals_brute_force_on_random_cells(seed: int) -> None:
    """Any pbc, skewed and left-handed cells, needles, atoms far outside, open directions with a zero, short or dependent row."""
    rng = np.random.default_rng(seed)
    pbc = np.array([seed >> axis & 1 for axis in range(3)], bool)
    while True:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1.0, 8.0, (3, 1))
        if relative_volume(cell) > 0.02 and abs(np.linalg.det(cell)) > 5:
            break
    for axis in np.flatnonzero(~pbc):
        cell[axis] = [np.zeros(3), 1e-3 * cell[axis], cell[(axis + 1) % 3] + cell[(axis + 2) % 3], cell[axis]][rng.integers(4)]
    positions = rng.uniform(-6, 6, (rng.integers(1, 7), 3)) + rng.integers(-3, 4, (1, 3)) @ cell
    cutoff = rng.uniform(2.0, 4.0)
    assert as_set(*neighbors(positions, cell, pbc, cutoff)) == brute_force(positions, cell, pbc, cutoff)


@pytest.mark.parametrize("name", ["slab", "rhombohedral", "left_handed", "needle", "triclinic22", "copper1", "far_away_crystal"])
def test_order_and_reverse(name: str) -> None:
    image = zoo.atoms(name)
    cell = np.asarray(image.cell)
    receivers, senders, shifts, reverse = symmetric_neighbors(image.positions, cell, image.pbc, zoo.CUTOFF)
    rows = list(zip(receivers.tolist(), senders.tolist(), *shifts.T.tolist(), strict=True))
    assert rows == sorted(rows)
    np.testing.assert_array_equal(reverse[reverse], np.arange(len(reverse)))
    np.testing.assert_array_equal(receivers[reverse], senders)
    np.testing.assert_array_equal(shifts[reverse], -shifts)
    vectors = image.positions[senders] + shifts @ cell - image.positions[receivers]
    assert np.all(np.linalg.norm(vectors, axis=1) < zoo.CUTOFF + EDGE_VECTORS)


def test_wrapping_changes_no_edge_vector() -> None:
    image = zoo.atoms("triclinic22")
    cell = np.asarray(image.cell)
    moved = image.positions + np.random.default_rng(0).integers(-5, 6, (22, 3)) @ cell

    def vectors(positions: np.ndarray) -> np.ndarray:
        receivers, senders, shifts = neighbors(positions, cell, image.pbc, zoo.CUTOFF)
        table = np.column_stack([receivers, senders, np.round(positions[senders] + shifts @ cell - positions[receivers], 7) + 0.0])
        return table[np.lexsort(table.T)]

    np.testing.assert_allclose(vectors(moved), vectors(image.positions), atol=2e-7)


def test_wrap_leaves_open_directions_alone() -> None:
    image = zoo.atoms("slab")
    cell = np.asarray(image.cell)
    wrapped, images = wrap(image.positions, cell, image.pbc)
    np.testing.assert_array_equal(images[:, 2], 0)
    np.testing.assert_allclose(wrapped, image.positions + images @ cell, atol=1e-12)
    fractional = wrapped @ np.linalg.pinv(cell[:2])
    assert np.all((fractional > -1e-9) & (fractional < 1 + 1e-9))
    np.testing.assert_allclose(wrapped[:, 2], image.positions[:, 2], atol=1e-12)


def test_edge_at_the_cutoff_without_reverse_is_dropped() -> None:
    receivers, senders = np.array([0, 1, 0]), np.array([1, 0, 0])
    shifts = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0]])
    kept = symmetric_order(receivers, senders, shifts, np.array([False, False, True]))
    assert as_set(*kept[:3]) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}
    assert kept[3].tolist() == [1, 0]
    with pytest.raises(DataError, match="without its reverse"):
        symmetric_order(receivers, senders, shifts, np.array([False, False, False]))


def test_neighbour_search_that_rounds_differently_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair at the cutoff that the search sees from one side only must vanish; one well inside is a fault."""
    pair = (np.array([0, 1, 0]), np.array([1, 0, 2]), np.zeros((3, 3), int), np.array([1.0, 1.0, 2.5 - AT_CUTOFF / 2]))
    monkeypatch.setattr(sys.modules["macejax.data.neighbors"], "find_pairs", lambda *_: pair)
    positions, no_cell, is_open = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3, bool)
    assert len(neighbors(positions, no_cell, is_open, 2.5)[0]) == 2
    pair[3][2] = 2.4
    with pytest.raises(DataError, match="without its reverse"):
        neighbors(positions, no_cell, is_open, 2.5)


def test_duplicate_edge_is_refused() -> None:
    twice = np.array([0, 1, 0]), np.array([1, 0, 1]), np.zeros((3, 3), int), np.ones(3, bool)
    with pytest.raises(DataError, match="twice"):
        symmetric_order(*twice)


def test_collapsed_cell_is_refused_before_memory_runs_out() -> None:
    with pytest.raises(DataError, match="salt.*more than 100000 neighbours"):
        neighbors(np.zeros((1, 3)), 1e-3 * np.eye(3), np.ones(3, bool), 5.0, "salt")


def test_numbers_that_are_none_are_refused() -> None:
    """The search would not come back."""
    for positions, cell, cutoff in ((np.nan, 9.0, 5.0), (0.0, np.inf, 5.0), (0.0, 9.0, np.nan), (0.0, 9.0, 0.0)):
        with pytest.raises(DataError, match="b.xyz: positions, cell and cutoff must be finite"):
            neighbors(np.full((2, 3), positions), np.diag([cell] * 3), np.ones(3, bool), cutoff, "b.xyz")


def test_no_atoms_within_reach() -> None:
    receivers, senders, shifts, reverse = symmetric_neighbors(np.zeros((1, 3)), 20 * np.eye(3), np.ones(3, bool), 5.0)
    assert receivers.shape == senders.shape == reverse.shape == (0,)
    assert shifts.shape == (0, 3)
