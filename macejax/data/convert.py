"""Row form <-> ordinary jraph graph: edges in a list (COO) without padding, for those who come from jraph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.graph import Graph, rank_in_row
from macejax.data.neighbors import symmetric_order
from macejax.data.structure import LABELS, DataError, volume

if TYPE_CHECKING:
    import jraph

_PER_GRAPH = ("energy", "stress", "virials", "dipole", "polarizability")


def to_graphs_tuple(rows: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """The structures of a batch in row form as an ordinary jraph.GraphsTuple of numpy arrays: real atoms, edges and structures only.

    `nodes`: positions, image, species, charges, forces; `edges`: shift; `globals`: cell, origin, total_charge, head, the other labels,
    weights, index; `inputs` of both where there are any. A label that is missing is NaN. Units and the edge vector
    `positions[sender] + shift @ cell - positions[receiver]` are those of THE CONTRACT.
    """
    from jraph import GraphsTuple

    atom, edge, real = (np.asarray(field["mask"]) for field in (rows.nodes, rows.edges, rows.globals))
    num_slots = len(edge) // max(len(atom), 1)
    graph_of_edge = np.repeat(np.asarray(rows.nodes["graph"]), num_slots)[edge]
    nodes = {key: np.asarray(rows.nodes[key])[atom] for key in ("positions", "image", "species", "charges", "forces")}
    if "inputs" in rows.nodes:
        nodes["inputs"] = {name: np.asarray(value)[atom] for name, value in rows.nodes["inputs"].items()}
    nodes["forces"] = np.where(np.asarray(rows.nodes["forces_mask"])[atom], nodes["forces"], np.nan)
    weights = ("weight", *(f"{name}_weight" for name in LABELS))
    fields = {
        key: np.asarray(rows.globals[key])[real] for key in ("cell", "origin", "total_charge", "head", "index", *weights, *_PER_GRAPH)
    }
    for key in _PER_GRAPH:
        known = np.asarray(rows.globals[f"{key}_mask"])[real]
        fields[key] = np.where(known.reshape(-1, *[1] * (fields[key].ndim - 1)), fields[key], np.nan)
    if "inputs" in rows.globals:
        fields["inputs"] = {name: np.asarray(value)[real] for name, value in rows.globals["inputs"].items()}
    return GraphsTuple(
        nodes=nodes,
        edges={"shift": np.asarray(rows.edges["shift"])[edge]},
        senders=np.asarray(rows.senders)[edge],  # real atoms come first, so their numbers stay
        receivers=np.asarray(rows.receivers)[edge],
        globals=fields,
        n_node=np.asarray(rows.n_node)[real],
        n_edge=np.bincount(graph_of_edge, minlength=len(real))[real].astype(np.int32),
    )


def from_graphs_tuple(graph: jraph.GraphsTuple, capacity: Capacity | None = None, dtype: Any = np.float32) -> jraph.GraphsTuple:
    """Row form of an ordinary jraph.GraphsTuple. Positions are taken as they are: centre them, above all for float32.

    Args:
      graph: `nodes` with positions and species, `edges` with shift, `globals` with cell; labels, weights and index as `to_graphs_tuple`
        gives them may be there. Edges in any order within their structure; every edge needs its reverse.
      capacity: shape of the result; by default the smallest.
      dtype: of positions, cells and labels.

    Raises:
      DataError: a field is missing, or an edge has no reverse.
    """
    for part, keys in (("nodes", ("positions", "species")), ("edges", ("shift",)), ("globals", ("cell",))):
        there = getattr(graph, part)
        if missing := [key for key in keys if not isinstance(there, dict) or key not in there]:
            raise DataError(f"the graph's {part} have no {missing[0]!r}; there must be {', '.join(keys)}.")
    node_ends, edge_ends = np.cumsum(graph.n_node), np.cumsum(graph.n_edge)
    graphs = []
    for number, (num_nodes, num_edges) in enumerate(zip(graph.n_node, graph.n_edge, strict=True)):
        atoms = slice(node_ends[number] - num_nodes, node_ends[number])
        edges = slice(edge_ends[number] - num_edges, edge_ends[number])
        graphs.append(_one(graph, number, atoms, edges))
    return batch(graphs, capacity or capacity_for(graphs), dtype)


def _one(graph: jraph.GraphsTuple, number: int, atoms: slice, edges: slice) -> Graph:
    positions = np.asarray(graph.nodes["positions"][atoms], np.float64)
    cell = np.asarray(graph.globals["cell"][number], np.float64)
    receivers, senders = (np.asarray(ends[edges], np.int64) - atoms.start for ends in (graph.receivers, graph.senders))
    shift = np.asarray(graph.edges["shift"][edges], np.int64)
    try:
        receivers, senders, shift, reverse = symmetric_order(receivers, senders, shift, np.zeros(len(shift), bool))
    except DataError as error:
        raise DataError(f"structure {number} of the graph: {error}") from None

    def label(part: dict[str, Any], key: str, place: Any) -> np.ndarray | None:
        value = None if key not in part else np.asarray(part[key][place], np.float64)
        missing = value is None or (np.isnan(value).all() if key == "forces" else np.isnan(value).any())
        return None if missing else value

    energy = label(graph.globals, "energy", number)
    rank = rank_in_row(receivers)
    return Graph(
        positions=positions,
        species=np.asarray(graph.nodes["species"][atoms], np.int32),
        cell=cell,
        volume=volume(cell),
        pbc=(shift != 0).any(axis=0),
        receivers=receivers,
        senders=senders,
        shift=shift,
        reverse=reverse,
        rank=rank,
        max_degree=int(rank.max(initial=-1)) + 1,
        energy=np.nan if energy is None else float(energy),
        forces=label(graph.nodes, "forces", atoms),
        stress=label(graph.globals, "stress", number),
        virials=label(graph.globals, "virials", number),
        weight=float(graph.globals["weight"][number]) if "weight" in graph.globals else 1.0,
        weights={name: float(graph.globals.get(f"{name}_weight", np.ones(number + 1))[number]) for name in LABELS},
        e0=0.0,
        head=int(graph.globals["head"][number]) if "head" in graph.globals else 0,
        inputs={
            **{name: np.asarray(value[number]) for name, value in graph.globals.get("inputs", {}).items()},
            **{name: np.asarray(value[atoms]) for name, value in graph.nodes.get("inputs", {}).items()},
        },
        index=int(graph.globals["index"][number]) if "index" in graph.globals else -1,
        source=f"structure {number} of the graph",
        dipole=label(graph.globals, "dipole", number),
        polarizability=label(graph.globals, "polarizability", number),
        charges=label(graph.nodes, "charges", atoms),
        total_charge=float(graph.globals["total_charge"][number]) if "total_charge" in graph.globals else 0.0,
        images=graph.nodes["image"][atoms] if "image" in graph.nodes else None,
        origin=label(graph.globals, "origin", number),
    )
