"""Row form <-> ordinary jraph graph."""

from __future__ import annotations

import jax
import jraph
import numpy as np
import pytest

from macejax.config import EmbeddingConfig
from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.convert import from_graphs_tuple, to_graphs_tuple
from macejax.data.graph import build_graph
from macejax.data.structure import DataError
from tests import structures as zoo

NAMES = ("slab", "hydrogen_atom", "copper1", "ethanol", "needle", "rhombohedral")


def rows(room: tuple[int, ...] = (11, 4, 2, 1)) -> tuple[jraph.GraphsTuple, Capacity]:
    graphs = [build_graph(zoo.labelled(name), zoo.ELEMENTS, zoo.CUTOFF, index=place) for place, name in enumerate(NAMES)]
    graphs[3].forces[2, 1] = np.nan
    graphs.append(build_graph(zoo.structure("water"), zoo.ELEMENTS, zoo.CUTOFF)._replace(weight=0.25))
    capacity = Capacity(*(size + more for size, more in zip(capacity_for(graphs)[:4], room, strict=True)))
    return batch(graphs, capacity, np.float64), capacity


def test_round_trip_is_exact() -> None:
    there, capacity = rows()
    back = from_graphs_tuple(to_graphs_tuple(there), capacity, np.float64)
    jax.tree.map(np.testing.assert_array_equal, there, back)


def test_it_is_an_ordinary_graph() -> None:
    """jraph's own functions take it, and its edges are right whatever their order."""
    graph = to_graphs_tuple(rows()[0])
    assert graph.n_node.sum() == len(graph.nodes["species"])
    assert graph.n_edge.sum() == len(graph.senders) == len(graph.receivers) == len(graph.edges["shift"])
    cells = np.repeat(graph.globals["cell"], graph.n_edge, axis=0)
    shifts = np.einsum("ea,eab->eb", graph.edges["shift"], cells)
    vectors = graph.nodes["positions"][graph.senders] + shifts - graph.nodes["positions"][graph.receivers]
    assert np.all(np.linalg.norm(vectors, axis=1) < zoo.CUTOFF)
    parts = jraph.unbatch_np(jax.tree.map(np.copy, graph))  # a copy, for it writes into its argument
    assert len(parts) == len(NAMES) + 1
    joined = jraph.batch_np(parts)
    jax.tree.map(np.testing.assert_array_equal, to_graphs_tuple(from_graphs_tuple(joined, dtype=np.float64)), graph)


def test_edges_in_any_order() -> None:
    there, capacity = rows()
    graph = to_graphs_tuple(there)
    order = np.concatenate(
        [
            np.random.default_rng(0).permutation(np.arange(end - n, end))
            for n, end in zip(graph.n_edge, np.cumsum(graph.n_edge), strict=True)
        ]
    )
    shuffled = graph._replace(senders=graph.senders[order], receivers=graph.receivers[order], edges={"shift": graph.edges["shift"][order]})
    jax.tree.map(np.testing.assert_array_equal, there, from_graphs_tuple(shuffled, capacity, np.float64))


def test_bare_graph_of_a_jraph_user() -> None:
    graph = jraph.GraphsTuple(
        nodes={"positions": np.array([[0.0, 0, 0], [0, 0, 1]]), "species": np.array([0, 1])},
        edges={"shift": np.zeros((2, 3), int)},
        senders=np.array([0, 1]),
        receivers=np.array([1, 0]),
        globals={"cell": np.zeros((1, 3, 3))},
        n_node=np.array([2]),
        n_edge=np.array([2]),
    )
    there = from_graphs_tuple(graph)
    assert there.edges["mask"].sum() == 2
    assert not there.globals["energy_mask"].any() and not there.nodes["forces_mask"].any()
    np.testing.assert_array_equal(there.globals["weight"], [1, 0])


def test_faults_are_named() -> None:
    graph = to_graphs_tuple(rows()[0])
    with pytest.raises(DataError, match="structure 0 of the graph: .*without its reverse"):
        from_graphs_tuple(graph._replace(edges={"shift": np.concatenate([graph.edges["shift"][:1] + 7, graph.edges["shift"][1:]])}))
    with pytest.raises(DataError, match="edges have no 'shift'"):
        from_graphs_tuple(graph._replace(edges={}))
    with pytest.raises(DataError, match="globals have no 'cell'"):
        from_graphs_tuple(graph._replace(globals=None))


def test_heads_and_inputs_come_back() -> None:
    embeddings = [EmbeddingConfig(name=name, type="continuous", per=per, emb_dim=2) for name, per in (("field", "atom"), ("t", "graph"))]
    water = zoo.structure("water")._replace(head="b", inputs={"field": np.array([0.1, 0.2, 0.3]), "t": 4.0})
    graphs = [build_graph(water, zoo.ELEMENTS, zoo.CUTOFF, heads=("a", "b"), embeddings=embeddings)]
    there = batch(graphs, capacity_for(graphs), np.float64)
    assert there.globals["head"][0] == 1
    jax.tree.map(np.testing.assert_array_equal, there, from_graphs_tuple(to_graphs_tuple(there), capacity_for(graphs), np.float64))
