"""[Graph] + Capacity -> one padded jraph.GraphsTuple in row form (THE CONTRACT, macejax/README.md). Nothing else batches or pads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from macejax.data.graph import Graph
from macejax.data.structure import LABELS, DataError, volume

if TYPE_CHECKING:
    import jraph  # imported when the first batch is made: it imports jax, which the workers of the loader must not

SLOT_STEP = 4  # neighbour slots per atom come in multiples of this


class Capacity(NamedTuple):
    """The static shape of a batch."""

    nodes: int  # N, atoms
    slots: int  # M, neighbour slots per atom, a multiple of 4
    graphs: int  # G, structures; at least one more than there are real ones
    species: int  # S, slots of the species table


def capacity_for(graphs: Sequence[Graph], growth: float = 1.0) -> Capacity:
    """The smallest capacity that holds all the graphs in one batch, atoms and slots grown by a factor of at least 1."""
    if growth < 1:
        raise ValueError(f"growth must be 1 or more, not {growth}.")
    nodes = sum(len(graph.species) for graph in graphs)
    degree = max((graph.max_degree for graph in graphs), default=0)
    present = {int(kind) for graph in graphs for kind in np.unique(graph.species)}
    return Capacity(max(int(np.ceil(nodes * growth)), 1), round_slots(degree * growth), len(graphs) + 1, max(len(present), 1))


def round_slots(degree: float) -> int:
    """Neighbour slots M for a largest degree: the next multiple of 4, at least 4."""
    return max(SLOT_STEP * int(np.ceil(degree / SLOT_STEP)), SLOT_STEP)


def batch(graphs: Sequence[Graph], capacity: Capacity, dtype: Any = np.float32) -> jraph.GraphsTuple:
    """One padded GraphsTuple of numpy arrays, exactly as THE CONTRACT says. No graph at all gives a batch of padding.

    Args:
      graphs: what to hold, in this order.
      capacity: shape of the result.
      dtype: of positions, cells and labels; the subtraction of E0s and the centring came before, in float64.

    Raises:
      DataError: the graphs do not fit. Nothing is ever cropped.
    """
    from jraph import GraphsTuple

    _refuse_overflow(graphs, capacity)
    counts = np.array([len(graph.species) for graph in graphs], np.int32)
    n_node = np.zeros(capacity.graphs, np.int32)
    n_node[: len(graphs)] = counts
    n_node[len(graphs)] = capacity.nodes - counts.sum()
    nodes, table = _nodes(graphs, counts, capacity, dtype)
    senders, receivers, edges = _edges(graphs, counts, capacity)
    return GraphsTuple(
        nodes=nodes,
        edges=edges,
        senders=senders,
        receivers=receivers,
        globals=_globals(graphs, capacity, dtype) | {"species_table": table},
        n_node=n_node,
        n_edge=n_node * np.int32(capacity.slots),
    )


def stack(batches: Sequence[jraph.GraphsTuple]) -> jraph.GraphsTuple:
    """Batches of one capacity with a new leading axis, one entry per device."""

    def join(*leaves: Any) -> Any:
        if isinstance(leaves[0], dict):
            return {key: join(*(leaf[key] for leaf in leaves)) for key in leaves[0]}
        return leaves[0][None] if len(leaves) == 1 else np.stack(leaves)

    return batches[0]._make(join(*fields) for fields in zip(*batches, strict=True))


def _refuse_overflow(graphs: Sequence[Graph], capacity: Capacity) -> None:
    need = capacity_for(graphs)
    if capacity.slots % SLOT_STEP or capacity.slots < SLOT_STEP:
        raise ValueError(f"a capacity has a multiple of {SLOT_STEP} slots, not {capacity.slots}.")
    for name, size, room in zip(Capacity._fields, need, capacity, strict=True):
        if size > room and not (name == "nodes" and not graphs):
            raise DataError(
                f"the batch needs {size} {name}, but its capacity is {room} {name} (needed {tuple(need)}, there is {tuple(capacity)})."
            )


def _nodes(graphs: Sequence[Graph], counts: np.ndarray, capacity: Capacity, dtype: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    size, real = capacity.nodes, int(counts.sum())
    positions = np.zeros((size, 3), dtype)
    species = np.zeros(size, np.int32)
    forces = np.zeros((size, 3), dtype)
    forces_mask = np.zeros((size, 3), bool)
    graph_of = np.full(size, len(graphs), np.int32)
    start = 0
    for number, graph in enumerate(graphs):
        stop = start + len(graph.species)
        positions[start:stop] = graph.positions
        species[start:stop] = graph.species
        graph_of[start:stop] = number
        if graph.forces is not None:
            known = ~np.isnan(graph.forces)
            forces_mask[start:stop] = known
            forces[start:stop] = np.where(known, graph.forces, 0.0)
        start = stop
    table, slot = _species_table(species[:real], capacity)
    nodes = {
        "positions": positions,
        "species": species,
        "slot": np.concatenate([slot, np.zeros(size - real, np.int32)]),
        "graph": graph_of,
        "mask": np.arange(size) < real,
        "forces": forces,
        "forces_mask": forces_mask,
    }
    return nodes, table


def _species_table(species: np.ndarray, capacity: Capacity) -> tuple[np.ndarray, np.ndarray]:
    """The species present, padded by repeating the first, and every atom's place in the table. Padding atoms take place 0."""
    present, slot = np.unique(species, return_inverse=True)
    table = np.full(capacity.species, present[0] if len(present) else 0, np.int32)
    table[: len(present)] = present
    return table, slot.astype(np.int32).reshape(-1)


def _edges(graphs: Sequence[Graph], counts: np.ndarray, capacity: Capacity) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    width = capacity.slots
    receivers = np.repeat(np.arange(capacity.nodes, dtype=np.int32), width)
    senders = receivers.copy()
    size = len(receivers)
    shift = np.zeros((size, 3), np.int32)
    mask = np.zeros(size, bool)
    reverse = np.arange(size, dtype=np.int32)
    start = 0
    for graph, count in zip(graphs, counts, strict=True):
        slot = (graph.receivers + start) * width + graph.rank
        senders[slot] = graph.senders + start
        shift[slot] = graph.shift
        mask[slot] = True
        reverse[slot] = slot[graph.reverse]
        start += int(count)
    return senders, receivers, {"shift": shift, "mask": mask, "reverse": reverse}


def _globals(graphs: Sequence[Graph], capacity: Capacity, dtype: Any) -> dict[str, np.ndarray]:
    size, real = capacity.graphs, len(graphs)
    mask = np.arange(size) < real
    cell = np.tile(np.eye(3, dtype=dtype), (size, 1, 1))
    fields = {"cell": cell, "volume": np.ones(size, dtype), "mask": mask, "index": np.full(size, -1, np.int32)}
    for name, shape in (("energy", ()), ("stress", (3, 3)), ("virials", (3, 3))):
        fields[name] = np.zeros((size, *shape), dtype)
        fields[f"{name}_mask"] = np.zeros(size, bool)
    fields["weight"] = np.zeros(size, dtype)
    for name in LABELS:
        fields[f"{name}_weight"] = np.zeros(size, dtype)
    for number, graph in enumerate(graphs):
        cell[number] = graph.cell
        fields["volume"][number] = volume(graph.cell)
        fields["index"][number] = graph.index
        fields["weight"][number] = graph.weight
        for name in LABELS:
            fields[f"{name}_weight"][number] = graph.weights[name]
        for name in ("energy", "stress", "virials"):
            label = getattr(graph, name)
            if label is not None and not np.isnan(label).any():
                fields[name][number] = label
                fields[f"{name}_mask"][number] = True
    return fields
