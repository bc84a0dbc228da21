"""Batch -> edge vectors, lengths and spherical harmonics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph

from macejax.ops.gather import gather_neighbors


def rows(x: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Edge array [N*M, ...] as rows [N, M, ...]. The one place that knows how edges lie in memory."""
    num_nodes = graph.nodes["species"].shape[0]
    return x.reshape((num_nodes, x.shape[0] // max(num_nodes, 1)) + x.shape[1:])


def edge_vectors(graph: jraph.GraphsTuple) -> jax.Array:
    """r = x_sender + shift @ cell - x_receiver of every slot, [N, M, 3] (Angstrom); zero on padding."""
    positions = graph.nodes["positions"]
    cell = graph.globals["cell"][graph.nodes["graph"]]  # [N, 3, 3]
    shift = rows(graph.edges["shift"], graph).astype(positions.dtype)
    neighbors = gather_neighbors(positions, rows(graph.senders, graph), graph.edges["reverse"])
    return neighbors - positions[:, None] + jnp.einsum("nma,nab->nmb", shift, cell, precision=jax.lax.Precision.HIGHEST)


def sum_per_graph(x: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Sum of a node array [N, ...] over the atoms of each structure, [G, ...]: a one-hot matmul, so that no scatter is needed."""
    num_graphs = graph.n_node.shape[0]
    member = (graph.nodes["graph"] == jnp.arange(num_graphs)[:, None]) & graph.nodes["mask"]  # [G, N]
    flat = x.reshape(x.shape[0], -1)
    total = jnp.matmul(member.astype(x.dtype), flat, precision=jax.lax.Precision.HIGHEST)
    return total.reshape((num_graphs,) + x.shape[1:])
