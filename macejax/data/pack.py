"""All structures of a data set -> as few batches as possible, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from macejax.data.batch import Capacity, stack
from macejax.data.graph import Graph
from macejax.data.loader import Step, make_batches
from macejax.data.shapes import Sizes, choose_capacities, need, sizes_of, smallest_fit, with_classes

OPEN_BINS = 32  # bins that are tried for the next structure


class Packed(Sequence[Step]):
    """Steps, each of which is made when it is asked for: all of them take more memory than the graphs."""

    def __init__(
        self,
        graphs: Sequence[Graph],
        groups: Sequence[list[list[int]]],
        capacities: Sequence[Capacity],
        num_devices: int | None,
        dtype: Any,
    ):
        self._graphs, self._groups, self._capacities = graphs, groups, capacities
        self._num_devices, self._dtype = num_devices, dtype

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Step]:
        return (self[number] for number in range(len(self)))  # that of Sequence takes an IndexError in a batch for the end

    def __getitem__(self, number: Any) -> Any:
        group = self._groups[number]
        padded = group + [[]] * ((self._num_devices or 1) - len(group))
        batches = make_batches(self._graphs, padded, self._capacities[number], self._dtype)
        return Step(batches[0] if self._num_devices is None else stack(batches), np.concatenate(group))


def pack_all(
    graphs: Sequence[Graph], *, nodes: int = 256, num_devices: int | None = None, dtype: Any = np.float32, shapes: int = 2
) -> Sequence[Step]:
    """Batches that hold every structure exactly once, in an order that packs well.

    Args:
      graphs: what to pack.
      nodes: atoms that a batch should not exceed; one that holds a single larger structure does.
      num_devices: leading device axis of every batch; None for batches without one.
      dtype: of the batches.
      shapes: how many static shapes there may be at most.

    Returns:
      Steps, made when they are asked for; their `indices` are positions in `graphs`. A device may hold no structure in the last one.
    """
    if shapes < 1 or (num_devices is not None and num_devices < 1):
        raise ValueError("shapes and num_devices must be at least 1.")
    if not graphs:
        return []
    sizes = sizes_of(graphs)
    bins = _first_fit(sizes, nodes)
    width = num_devices or 1
    groups = [bins[start : start + width] for start in range(0, len(bins), width)]
    needs = [need(sizes, group) for group in groups]
    worst = Capacity(*np.max([size[:4] for size in needs], axis=0).tolist())
    capacities = with_classes(choose_capacities(needs, worst, shapes), needs, shapes)
    return Packed(graphs, groups, [smallest_fit(capacities, size) for size in needs], num_devices, dtype)


def _first_fit(sizes: Sizes, limit: int) -> list[list[int]]:
    """First-fit decreasing, those with most neighbours first, so that a bin's structures want about the same number of slots."""
    bins: list[list[int]] = []
    room: list[int] = []
    for member in np.lexsort((-sizes.nodes, -sizes.slots)).tolist():
        size = int(sizes.nodes[member])
        for place in range(max(len(bins) - OPEN_BINS, 0), len(bins)):
            if size <= room[place]:
                break
        else:
            place = len(bins)
            bins.append([])
            room.append(limit)
        bins[place].append(member)
        room[place] -= size
    return bins
