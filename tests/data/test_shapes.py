"""Choice of the static shapes, and who goes to which device."""

from __future__ import annotations

import numpy as np
import pytest

from macejax.data.batch import Capacity
from macejax.data.shapes import choose_capacities, smallest_fit, spread


def needs_of(nodes: np.ndarray, slots: np.ndarray | int = 8) -> list[Capacity]:
    return [Capacity(int(n), int(m), 6, 3) for n, m in zip(nodes, np.broadcast_to(slots, nodes.shape), strict=True)]


def test_one_shape_where_all_are_alike() -> None:
    worst = Capacity(45, 8, 6, 3)
    assert choose_capacities(needs_of(np.full(100, 45)), worst, 4) == [worst]
    assert choose_capacities([], worst, 4) == [worst]


def test_two_kinds_of_steps_get_two_shapes() -> None:
    needs = needs_of(np.array([10] * 50 + [100] * 50))
    assert [capacity.nodes for capacity in choose_capacities(needs, Capacity(100, 8, 6, 3), 4)] == [10, 100]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_shapes_are_nested_few_and_hold_everything(limit: int) -> None:
    rng = np.random.default_rng(limit)
    needs = needs_of(rng.integers(1, 500, 300), 4 * rng.integers(1, 20, 300))
    worst = Capacity(500, 80, 6, 3)
    chosen = choose_capacities(needs, worst, limit)
    assert len(chosen) <= limit and chosen[-1] == worst
    for one, other in zip(chosen, chosen[1:], strict=False):
        assert all(a <= b for a, b in zip(one[:4], other[:4], strict=True))
    for need in needs:
        assert all(room >= size for room, size in zip(smallest_fit(chosen, need)[:4], need[:4], strict=True))


def test_more_shapes_waste_less() -> None:
    needs = needs_of(np.random.default_rng(0).integers(1, 500, 300))
    worst = Capacity(500, 8, 6, 3)

    def waste(limit: int) -> float:
        chosen = choose_capacities(needs, worst, limit)
        return sum(smallest_fit(chosen, need).nodes - need.nodes for need in needs)

    assert waste(4) < waste(2) < waste(1)


@pytest.mark.parametrize("num_devices", [1, 2, 3, 8])
def test_spread_holds_everyone_once_and_bounds_every_device(num_devices: int) -> None:
    rng = np.random.default_rng(num_devices)
    for _ in range(50):
        nodes = rng.integers(1, 100, rng.integers(1, 20))
        bins = spread(nodes, num_devices)
        assert len(bins) == num_devices
        assert sorted(member for members in bins for member in members) == list(range(len(nodes)))
        assert max(map(len, bins)) <= -(-len(nodes) // num_devices)
        assert all(members == sorted(members) for members in bins)  # the order of the step, within a device


def test_spread_balances_atoms_not_structures() -> None:
    nodes = np.array([30, 10, 10, 10, 1, 1])
    assert sorted(int(nodes[members].sum()) for members in spread(nodes, 2)) == [30, 32]
