"""Which static shapes: a step of any structures must fit one of a few capacities, for each is compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from macejax.data.batch import Capacity, round_slots
from macejax.data.classes import SLOT_STEP, Classes, all_classes, choose_classes, rows_above
from macejax.data.graph import Graph

WORTHWHILE = 0.05  # a further shape must save this part of all slots, for it costs a compilation
CLASS_MARGIN = 1.1  # wide rows beyond those of the steps that were looked at
CUTS = 64  # sizes at which a further shape is tried


class Sizes(NamedTuple):
    """What packing needs to know of every structure of a data set."""

    nodes: np.ndarray  # [n] atoms
    edges: np.ndarray  # [n] edges
    slots: np.ndarray  # [n] largest degree, rounded as slots are
    species: list[int]  # [n] one bit per element present
    above: np.ndarray  # [n, W] atoms that need more than 4, 8, ... slots, W the same for all


def sizes_of(graphs: Sequence[Graph]) -> Sizes:
    """Sizes of all the graphs."""
    widest = round_slots(max((graph.max_degree for graph in graphs), default=0))
    degrees = (np.bincount(graph.receivers, minlength=len(graph.species)) for graph in graphs)
    return Sizes(
        nodes=np.array([len(graph.species) for graph in graphs], np.int64),
        edges=np.array([len(graph.senders) for graph in graphs], np.int64),
        slots=np.array([round_slots(graph.max_degree) for graph in graphs], np.int64),
        species=[sum(1 << kind for kind in np.unique(graph.species).tolist()) for graph in graphs],
        above=np.array([rows_above(found, widest) for found in degrees], np.int64).reshape(len(graphs), -1),
    )


def need(sizes: Sizes, bins: Sequence[Sequence[int] | np.ndarray]) -> Capacity:
    """The smallest capacity that every one of the bins (lists of structures) fits, with a class for every number of slots."""
    nodes = slots = graphs = species = 1
    above = np.zeros(sizes.above.shape[1], np.int64)
    for members in bins:
        if len(members):
            present = 0
            for member in members:
                present |= sizes.species[member]
            nodes = max(nodes, int(sizes.nodes[members].sum()))
            slots = max(slots, int(sizes.slots[members].max()))
            graphs = max(graphs, len(members))
            species = max(species, present.bit_count())
            above = np.maximum(above, sizes.above[members].sum(axis=0))
    return Capacity(nodes, round_slots(slots), graphs + 1, species, all_classes(above, nodes, round_slots(slots)))


def worst_need(sizes: Sizes, count: int) -> Capacity:
    """A capacity that any `count` structures of the data set fit."""
    largest = np.sort(sizes.nodes)[-count:]
    kinds = sorted((present.bit_count() for present in sizes.species), reverse=True)[:count]
    everything = 0
    for present in sizes.species:
        everything |= present
    return Capacity(int(largest.sum()), int(sizes.slots.max()), count + 1, min(sum(kinds), everything.bit_count()))


def choose_capacities(needs: Sequence[Capacity], worst: Capacity, limit: int) -> list[Capacity]:
    """At most `limit` capacities, each within the next, the last one `worst`, that waste few slots on steps with these needs.

    Steps are sorted by their slots; a capacity is the largest need up to some cut. Cuts are added one by one where they save most, as long
    as that is worthwhile.
    """
    table = np.array(sorted((size[:4] for size in needs), key=lambda size: size[0] * size[1])).reshape(-1, 4)
    running = np.maximum.accumulate(table, axis=0)
    slots = running[:, 0] * running[:, 1]
    candidates = sorted({int(cut) for cut in np.linspace(0, len(table) - 1, CUTS)}) if len(table) else []
    cuts: list[int] = []

    def cost(chosen: list[int]) -> int:
        total, start = 0, 0
        for cut in sorted(chosen):
            total += (cut + 1 - start) * int(slots[cut])
            start = cut + 1
        return total + (len(table) - start) * worst.nodes * worst.slots

    while candidates and len(cuts) < limit - 1:
        best = min(candidates, key=lambda cut: cost([*cuts, cut]))
        if cost([*cuts, best]) > (1 - WORTHWHILE) * cost(cuts):
            break
        cuts.append(best)
    return [Capacity(*running[cut].tolist()) for cut in sorted(cuts)] + [worst]


def with_classes(capacities: Sequence[Capacity], needs: Sequence[Capacity], limit: int) -> list[Capacity]:
    """The same capacities, with classes where they save slots on the steps with these needs.

    A step that does not find enough wide rows takes the next capacity. So the last, which has to hold any step, has no classes; one of its
    size that has some comes before it, if there may be another.
    """
    found: list[Capacity] = []
    for capacity in capacities:
        steps = [size for size in needs if smallest_fit(capacities, size) is capacity]
        classes: Classes = ()
        if steps:
            above = np.max([_above(size, capacity.slots) for size in steps], axis=0)
            classes = choose_classes(np.ceil(CLASS_MARGIN * above).astype(int), capacity.nodes, capacity.slots)
        last = capacity is capacities[-1]
        if classes and (not last or len(capacities) < limit):
            found.append(capacity._replace(classes=classes))
        if last or not found or found[-1][:4] != capacity[:4]:
            found.append(capacity)
    return found


def _above(size: Capacity, slots: int) -> np.ndarray:
    """Rows of a need that are wider than 4, 8, ... slots."""
    widths = np.array(size.classes or ((size.nodes, size.slots),))
    return np.sum(widths[:, :1] * (widths[:, 1:] > np.arange(SLOT_STEP, slots, SLOT_STEP)), axis=0)


def smallest_fit(capacities: Sequence[Capacity], size: Capacity) -> Capacity:
    """The first capacity that is large enough."""
    for capacity in capacities:
        if capacity.holds(size):
            return capacity
    raise RuntimeError(f"no capacity of {[tuple(capacity) for capacity in capacities]} holds {tuple(size)}.")


def spread(nodes: np.ndarray, num_devices: int) -> list[list[int]]:
    """Which of the structures (atoms: `nodes` [b]) go to which device: largest first, each to the device with the fewest atoms so far.

    No device gets more than ceil(b / num_devices) structures, so that a bound on its atoms is known in advance; one may get none. As all
    devices share one number of slots per atom, to balance atoms is to balance slots.
    """
    if num_devices == 1:
        return [list(range(len(nodes)))]
    most = -(-len(nodes) // num_devices)
    bins: list[list[int]] = [[] for _ in range(num_devices)]
    load = [0] * num_devices
    for member in np.argsort(-nodes, kind="stable").tolist():
        device = min((d for d in range(num_devices) if len(bins[d]) < most), key=lambda d: (load[d], d))
        bins[device].append(member)
        load[device] += int(nodes[member])
    return [sorted(members) for members in bins]
