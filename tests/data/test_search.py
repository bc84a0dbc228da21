"""Pairs over huge and lopsided extents, where vesin by itself crashes or takes minutes."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.spatial import cKDTree

from macejax.data.search import find_pairs, narrow_gaps

CUTOFF = 4.0
SOON = 20.0  # s; by itself vesin takes minutes


def cloud(num: int, far: float) -> np.ndarray:
    """A dense drop of atoms, and some that have drifted away."""
    positions = np.random.default_rng(0).uniform(0, 15, (num, 3))
    positions[-4:] = [[1, far, -far], [2, far + 1, -far], [3, -far, 0.5], [1, 1e-3 * far, 3 * far]]
    return positions


def reference(positions: np.ndarray, length: float | None) -> set[tuple[int, ...]]:
    """Pairs, the first direction being periodic with that length, by a k-d tree over three images."""
    images = [0] if length is None else [-1, 0, 1]
    pairs = set()
    tree = cKDTree(positions)
    for image in images:
        moved = positions + np.array([image * (length or 0.0), 0, 0])
        for receiver, found in enumerate(tree.query_ball_tree(cKDTree(moved), CUTOFF)):
            pairs |= {(receiver, sender, image, 0, 0) for sender in found if sender != receiver or image}
    return pairs


CASES = """
import numpy as np
from macejax.data.search import find_pairs
rng = np.random.default_rng(0)
for size in ([30, 1e4, 1e4], [30, 1e5, 1e5], [3, 2000, 2000], [1e5, 20, 1e5], [30, 1e3, 1e7], [5, 1e5, 7], [1e4, 1e4, 1e4]):
    for pbc in ([0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]):
        positions = rng.uniform(0, 1, (500, 3)) * size
        find_pairs(positions, np.diag(size) + 0.1, np.array(pbc, bool), 4.0)
"""


@pytest.mark.parametrize("far", [30.0, 1e3, 1e6])
@pytest.mark.parametrize("length", [None, 15.0])
def test_drifted_atoms(far: float, length: float | None) -> None:
    positions = cloud(300, far)
    cell, pbc = np.diag([length or 0.0, 0, 0]), np.array([length is not None, False, False])
    start = time.perf_counter()
    receivers, senders, shifts, lengths = find_pairs(positions, cell, pbc, CUTOFF)
    assert time.perf_counter() - start < SOON
    assert {(i, j, *shift) for i, j, shift in zip(receivers.tolist(), senders.tolist(), shifts.tolist(), strict=True)} == reference(
        positions, length
    )
    vectors = positions[senders] + shifts @ cell - positions[receivers]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), lengths, atol=1e-14 * far + 1e-12)


def test_lopsided_box_has_the_right_pairs() -> None:
    """Where the search must use a larger radius than the cutoff, so that vesin survives, only pairs within the cutoff are kept."""
    rng = np.random.default_rng(2)
    size = np.array([30.0, 1e4, 1e4])
    one = rng.uniform(0, 1, (150, 3)) * size
    direction = rng.normal(size=(150, 3))
    other = one + rng.uniform(1, 8, (150, 1)) * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    positions = np.concatenate([one, other]) % size
    receivers, senders, _, lengths = find_pairs(positions, np.diag(size), np.ones(3, bool), CUTOFF)
    pairs = cKDTree(positions, boxsize=size).query_pairs(CUTOFF)
    assert len(pairs) > 40 and lengths.max() < CUTOFF
    assert sorted(zip(receivers.tolist(), senders.tolist(), strict=True)) == sorted(pairs | {(j, i) for i, j in pairs})


def test_no_extent_kills_the_process() -> None:
    """In a process of its own, for what vesin does in such a box is not an exception but a signal."""
    done = subprocess.run([sys.executable, "-c", CASES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_narrow_gaps_keeps_near_pairs_and_separates_far_ones() -> None:
    rng = np.random.default_rng(1)
    positions = rng.normal(scale=50, size=(60, 3))
    moved = narrow_gaps(positions, np.eye(3), 4.04)
    before, after = (x[:, None] - x for x in (positions, moved))
    near = np.abs(before).max(axis=-1) < CUTOFF
    np.testing.assert_allclose(after[near], before[near], atol=1e-12)
    far = np.abs(before) > 4.04
    assert np.all(np.abs(after[far]) > CUTOFF)
    assert np.ptp(moved, axis=0).max() < np.ptp(positions, axis=0).max()
