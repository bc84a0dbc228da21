"""[Graph] + Capacity -> one padded jraph.GraphsTuple in row form (THE CONTRACT, macejax/README.md). Nothing else batches or pads."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from macejax.data.classes import SLOT_STEP, Classes, choose_classes, hold, rows_above, sort_rows
from macejax.data.graph import Graph
from macejax.data.structure import LABELS, DataError

if TYPE_CHECKING:
    import jraph  # imported when the first batch is made: it imports jax, which the workers of the loader must not

# Labels of structures that are no scalars.
TENSORS = {"stress": (3, 3), "virials": (3, 3), "dipole": (3,), "polarizability": (3, 3)}


class Capacity(NamedTuple):
    """The static shape of a batch."""

    nodes: int  # N, atoms
    slots: int  # M, neighbour slots per atom, a multiple of 4
    graphs: int  # G, structures; at least one more than there are real ones
    species: int  # S, slots of the species table
    classes: Classes = ()  # of rows with like numbers of slots, (rows, slots) in ascending order; none where all rows have M

    def holds(self, need: Capacity) -> bool:
        """Whether what needs that much fits."""
        return all(room >= size for room, size in zip(self[:4], need[:4], strict=True)) and hold(self.classes, need.classes, *need[:2])

    @property
    def num_slots(self) -> int:
        """Slots that are computed."""
        return sum(rows * width for rows, width in self.classes) or self.nodes * self.slots


def capacity_for(graphs: Sequence[Graph], growth: float = 1.0, classes: int = 1) -> Capacity:
    """The smallest capacity that holds all the graphs in one batch, atoms and slots grown by a factor of at least 1.

    Args:
      graphs: what to hold.
      growth: room for more.
      classes: rows may come in so many classes of like degree: each costs a part of the compilation again, and saves slots of atoms
        with few neighbours.
    """
    if growth < 1:
        raise ValueError(f"growth must be 1 or more, not {growth}.")
    species = _joined([graph.species for graph in graphs], np.zeros(0, np.int32))
    degree = max((graph.max_degree for graph in graphs), default=0)
    nodes, slots = max(ceil(len(species) * growth), 1), round_slots(degree * growth)
    found: Classes = ()
    if classes > 1:
        degrees = _joined([np.bincount(graph.receivers, minlength=len(graph.species)) for graph in graphs], np.zeros(0))
        found = choose_classes(np.ceil(rows_above(degrees * growth, slots) * growth).astype(int), nodes, slots, classes)
    return Capacity(nodes, slots, len(graphs) + 1, max(len(_present(species)), 1), found)


def round_slots(degree: float) -> int:
    """Neighbour slots M for a largest degree: the next multiple of 4, at least 4."""
    return max(SLOT_STEP * ceil(degree / SLOT_STEP), SLOT_STEP)


def batch(graphs: Sequence[Graph], capacity: Capacity, dtype: Any = np.float32, like: Graph | None = None) -> jraph.GraphsTuple:
    """One padded GraphsTuple of numpy arrays, exactly as THE CONTRACT says. No graph at all gives a batch of padding.

    Args:
      graphs: what to hold, in this order.
      capacity: shape of the result.
      dtype: of positions, cells and labels; the subtraction of E0s and the centring came before, in float64.
      like: where there is no graph, one whose `inputs` the batch has fields for.

    Raises:
      DataError: the graphs do not fit. Nothing is ever cropped.
    """
    from jraph import GraphsTuple

    _refuse_overflow(graphs, capacity)
    counts = np.array([len(graph.species) for graph in graphs], np.int32)
    n_node = np.zeros(capacity.graphs, np.int32)
    n_node[: len(graphs)] = counts
    n_node[len(graphs)] = capacity.nodes - counts.sum()
    nodes, table = _nodes(graphs, n_node, capacity, dtype)
    senders, receivers, edges = _edges(graphs, counts, capacity)
    if capacity.classes:
        nodes |= _classes(edges["mask"].reshape(capacity.nodes, -1).sum(axis=1), capacity)
    of_nodes, of_graphs = _inputs(graphs, graphs[0] if graphs else like, capacity, dtype)
    return GraphsTuple(
        nodes=nodes | of_nodes,
        edges=edges,
        senders=senders,
        receivers=receivers,
        globals=_globals(graphs, capacity, dtype) | of_graphs | {"species_table": table},
        n_node=n_node,
        n_edge=n_node * np.int32(capacity.slots),
    )


def with_low(name: str, values: np.ndarray, dtype: Any) -> dict[str, np.ndarray]:
    """The field `name` in the dtype of the batch and, in float32, `{name}_low`: what rounding took from the float64 values."""
    rounded = values.astype(dtype)
    if rounded.dtype != np.float32:
        return {name: rounded}
    with np.errstate(invalid="ignore"):  # inf - inf, in tests of what is not finite
        return {name: rounded, f"{name}_low": (values - rounded).astype(np.float32)}


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
    for name, size, room in zip(Capacity._fields[:4], need[:4], capacity[:4], strict=True):
        if size > room and not (name == "nodes" and not graphs):
            raise DataError(
                f"the batch needs {size} {name}, but its capacity is {room} {name}"
                f" (needed {tuple(need[:4])}, there is {tuple(capacity[:4])})."
            )


def _nodes(graphs: Sequence[Graph], n_node: np.ndarray, capacity: Capacity, dtype: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    size = capacity.nodes
    species = _joined([graph.species for graph in graphs], np.zeros(0, np.int32))
    real = len(species)
    present = _present(species)
    table = np.full(capacity.species, present[0] if len(present) else 0, np.int32)
    table[: len(present)] = present
    place = np.zeros(present.max(initial=0) + 1, np.int32)
    place[present] = np.arange(len(present))
    no_rows = np.zeros((0, 3))
    forces = _joined([_forces(graph) for graph in graphs], no_rows)
    known = ~np.isnan(forces)
    positions = _padded(_joined([graph.positions for graph in graphs], no_rows), size, np.float64)
    nodes = {
        **with_low("positions", positions, dtype),
        "species": _padded(species, size, np.int32),
        "slot": _padded(place[species], size, np.int32),
        "graph": np.repeat(np.arange(capacity.graphs, dtype=np.int32), n_node),
        "mask": np.arange(size) < real,
        "forces": _padded(np.where(known, forces, 0.0), size, dtype),
        "forces_mask": _padded(known, size, bool),
        "charges": _padded(_joined([_or_zeros(graph.charges, graph) for graph in graphs], np.zeros(0)), size, dtype),
        "image": _padded(_joined([_or_zeros(graph.images, graph, 3) for graph in graphs], no_rows), size, np.int32),
    }
    return nodes, table


def _classes(degrees: np.ndarray, capacity: Capacity) -> dict[str, Any]:
    if sum(rows for rows, _ in capacity.classes) != capacity.nodes or max(width for _, width in capacity.classes) > capacity.slots:
        raise ValueError(f"the classes {capacity.classes} are not those of {capacity.nodes} rows of at most {capacity.slots} slots.")
    classes = sort_rows(degrees, capacity.classes)
    for width, atoms in classes.items():
        if (most := int(degrees[atoms].max())) > width:
            raise DataError(f"an atom of the batch needs {most} slots, but all rows of more than {width} are taken ({capacity.classes}).")
    row = np.empty(capacity.nodes, np.int32)
    row[np.concatenate(list(classes.values()))] = np.arange(capacity.nodes, dtype=np.int32)
    return {"classes": classes, "row": row}


def _forces(graph: Graph) -> np.ndarray:
    return np.full((len(graph.species), 3), np.nan) if graph.forces is None else graph.forces


def _or_zeros(values: np.ndarray | None, graph: Graph, *shape: int) -> np.ndarray:
    return np.zeros((len(graph.species), *shape)) if values is None else values


def _edges(graphs: Sequence[Graph], counts: np.ndarray, capacity: Capacity) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    width = capacity.slots
    receivers = np.repeat(np.arange(capacity.nodes, dtype=np.int32), width)
    senders = receivers.copy()
    size = len(receivers)
    shift = np.zeros((size, 3), np.int32)
    mask = np.zeros(size, bool)
    reverse = np.arange(size, dtype=np.int32)
    if graphs:
        edge_counts = np.array([len(graph.senders) for graph in graphs])
        first_node = np.repeat(np.cumsum(counts) - counts, edge_counts)
        first_edge = np.repeat(np.cumsum(edge_counts) - edge_counts, edge_counts)
        rank = np.concatenate([graph.rank for graph in graphs])
        slot = (np.concatenate([graph.receivers for graph in graphs]) + first_node) * width + rank
        senders[slot] = np.concatenate([graph.senders for graph in graphs]) + first_node
        shift[slot] = np.concatenate([graph.shift for graph in graphs])
        mask[slot] = True
        reverse[slot] = slot[np.concatenate([graph.reverse for graph in graphs]) + first_edge]
    return senders, receivers, {"shift": shift, "mask": mask, "reverse": reverse}


def _inputs(graphs: Sequence[Graph], example: Graph | None, capacity: Capacity, dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of atoms and of structures, each as {"inputs": {name: array}} or {} where there are none."""
    nodes, structures = {}, {}
    for name, value in {} if example is None else example.inputs.items():
        values = [graph.inputs[name] for graph in graphs]
        if value.ndim == 0:
            structures[name] = _padded(values, capacity.graphs, dtype)
        else:
            nodes[name] = _padded(_joined(values, np.zeros((0, *value.shape[1:]))), capacity.nodes, dtype)
    return ({"inputs": nodes} if nodes else {}), ({"inputs": structures} if structures else {})


def _globals(graphs: Sequence[Graph], capacity: Capacity, dtype: Any) -> dict[str, np.ndarray]:
    size, real = capacity.graphs, len(graphs)
    cell = np.tile(np.eye(3), (size, 1, 1))
    if graphs:
        cell[:real] = [graph.cell for graph in graphs]
    fields = {
        **with_low("cell", cell, dtype),
        "volume": _padded([graph.volume for graph in graphs], size, dtype, 1),
        "mask": np.arange(size) < real,
        "head": _padded([graph.head for graph in graphs], size, np.int32),
        "index": _padded([graph.index for graph in graphs], size, np.int32, -1),
        "weight": _padded([graph.weight for graph in graphs], size, dtype),
        "total_charge": _padded([graph.total_charge for graph in graphs], size, dtype),
        "origin": np.zeros((size, 3), dtype),
    }
    for number, graph in enumerate(graphs):
        if graph.origin is not None:
            fields["origin"][number] = graph.origin
    for name in LABELS:
        fields[f"{name}_weight"] = _padded([graph.weights[name] for graph in graphs], size, dtype)
    energy = np.array([graph.energy for graph in graphs], np.float64)
    fields["energy"] = _padded(np.nan_to_num(energy), size, dtype)
    fields["energy_mask"] = _padded(~np.isnan(energy), size, bool)
    for name, shape in TENSORS.items():
        labels = [getattr(graph, name) for graph in graphs]
        fields[f"{name}_mask"] = _padded([label is not None for label in labels], size, bool)
        fields[name] = np.zeros((size, *shape), dtype)
        for number, label in enumerate(labels):
            if label is not None:
                fields[name][number] = label
    return fields


def _joined(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate(parts) if parts else empty


def _padded(values: Any, size: int, dtype: Any, fill: float = 0) -> np.ndarray:
    """The values [n, ...] with rows of `fill` after them, [size, ...]."""
    values = np.asarray(values)
    array = np.full((size, *values.shape[1:]), fill, dtype)
    array[: len(values)] = values
    return array


def _present(species: np.ndarray) -> np.ndarray:
    """The different species, ascending; counting is quicker than sorting."""
    return np.flatnonzero(np.bincount(species)).astype(np.int32)
