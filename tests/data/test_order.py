"""The order of an epoch is a pure function, and stays what it is."""

from __future__ import annotations

import numpy as np

from macejax.data.order import order

FROZEN = {(0, 0): [0, 8, 9, 3, 7, 5, 1, 2, 6, 4], (1, 7): [4, 7, 6, 8, 5, 9, 3, 0, 2, 1]}


def test_is_a_permutation_and_pure() -> None:
    for num in (0, 1, 2, 1000):
        np.testing.assert_array_equal(np.sort(order(num, 3, 5)), np.arange(num))
    np.testing.assert_array_equal(order(100, 3, 5), order(100, 3, 5))
    np.random.seed(0)  # noqa: NPY002  (global state must not matter)
    np.testing.assert_array_equal(order(100, 3, 5), order(100, 3, 5))


def test_seeds_and_epochs_differ() -> None:
    orders = [tuple(order(50, seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_never_changes() -> None:
    """Frozen: a run must resume in the same order under any later version of numpy or of this library."""
    assert order(10, 0, 0).tolist() == FROZEN[0, 0]
    assert order(10, 1, 7).tolist() == FROZEN[1, 7]


def test_every_place_is_equally_likely() -> None:
    first = np.array([order(5, 0, epoch)[0] for epoch in range(2000)])
    counts = np.bincount(first, minlength=5)
    assert np.all(np.abs(counts - 400) < 5 * np.sqrt(400))
