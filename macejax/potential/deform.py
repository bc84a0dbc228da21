"""Batches whose atoms stand elsewhere, or whose cell is strained: what derivatives with respect to positions and cell are taken of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors, sum_per_graph, without_low
from macejax.potential.predict import SiteEnergy


def energy(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple) -> jax.Array:
    """Interaction energy of every structure [G] (eV), without forces."""
    return sum_per_graph(site_energy(params, edge_vectors(graph), graph), graph)


def place(graph: jraph.GraphsTuple, positions: jax.Array) -> jraph.GraphsTuple:
    """The batch with its atoms at `positions` [N, 3] (Angstrom); the edges stay. `positions_low`, which belongs to the old ones, goes."""
    plain = without_low(graph)
    return plain._replace(nodes={**plain.nodes, "positions": positions})


def deform(graph: jraph.GraphsTuple, strain: jax.Array) -> jraph.GraphsTuple:
    """The batch with positions x (1 + strain) and lattice vectors likewise; the edges stay.

    Args:
      graph: batch in row form.
      strain: [3, 3], of every structure, or [G, 3, 3].
    """
    number = graph.n_node.shape[0]
    positions = graph.nodes["positions"]
    matrix = jnp.broadcast_to(jnp.eye(3, dtype=positions.dtype) + strain, (number, 3, 3))
    product = jax.lax.Precision.HIGHEST
    moved = place(graph, jnp.einsum("na,nab->nb", positions, matrix[graph.nodes["graph"]], precision=product))
    cell = jnp.matmul(graph.globals["cell"], matrix, precision=product)
    volume = graph.globals["volume"] * jnp.abs(jnp.linalg.det(matrix))
    return moved._replace(globals={**moved.globals, "cell": cell, "volume": volume})


def voigt_strain(strain: jax.Array) -> jax.Array:
    """Strain [6] in Voigt order xx, yy, zz, yz, xz, xy, shears being the engineers' (2 e_yz, ...), as a symmetric matrix [3, 3]."""
    xx, yy, zz, yz, xz, xy = strain
    rows = ((xx, xy / 2, xz / 2), (xy / 2, yy, yz / 2), (xz / 2, yz / 2, zz))
    return jnp.stack([jnp.stack(row) for row in rows])
