"""Which static shapes: a step of any structures must fit one of a few capacities, for each is compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from macejax.data.batch import Capacity, round_slots
from macejax.data.graph import Graph

WORTHWHILE = 0.05  # a further shape must save this part of all slots, for it costs a compilation
CUTS = 64  # sizes at which a further shape is tried


class Sizes(NamedTuple):
    """What packing needs to know of every structure of a data set."""

    nodes: np.ndarray  # [n] atoms
    edges: np.ndarray  # [n] edges
    slots: np.ndarray  # [n] largest degree, rounded as slots are
    species: list[int]  # [n] one bit per element present


def sizes_of(graphs: Sequence[Graph]) -> Sizes:
    """Sizes of all the graphs."""
    return Sizes(
        nodes=np.array([len(graph.species) for graph in graphs], np.int64),
        edges=np.array([len(graph.senders) for graph in graphs], np.int64),
        slots=np.array([round_slots(graph.max_degree) for graph in graphs], np.int64),
        species=[sum(1 << kind for kind in np.unique(graph.species).tolist()) for graph in graphs],
    )


def need(sizes: Sizes, bins: Sequence[Sequence[int] | np.ndarray]) -> Capacity:
    """The smallest capacity that every one of the bins (lists of structures) fits."""
    nodes = slots = graphs = species = 1
    for members in bins:
        if len(members):
            present = 0
            for member in members:
                present |= sizes.species[member]
            nodes = max(nodes, int(sizes.nodes[members].sum()))
            slots = max(slots, int(sizes.slots[members].max()))
            graphs = max(graphs, len(members))
            species = max(species, present.bit_count())
    return Capacity(nodes, round_slots(slots), graphs + 1, species)


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
    table = np.array(sorted(needs, key=lambda size: size.nodes * size.slots)).reshape(-1, len(worst))
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


def smallest_fit(capacities: Sequence[Capacity], size: Capacity) -> Capacity:
    """The first capacity that is large enough."""
    for capacity in capacities:
        if all(room >= wanted for room, wanted in zip(capacity, size, strict=True)):
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
