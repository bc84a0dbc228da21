"""Batch -> edge vectors, lengths and spherical harmonics; sums over structures."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph

from macejax.ops.gather import gather_neighbors
from macejax.ops.harmonics import harmonics

# Atoms closer than this (Angstrom) count as coincident: length 0 and no direction. Below it the third derivative of a length overflows
# float32.
_COINCIDENT = 1e-6


def rows(x: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Edge array [N*M, ...] as rows [N, M, ...]. The one place that knows how edges lie in memory."""
    num_nodes = graph.nodes["species"].shape[0]
    return x.reshape((num_nodes, x.shape[0] // max(num_nodes, 1)) + x.shape[1:])


def edge_vectors(graph: jraph.GraphsTuple) -> jax.Array:
    """r = x_sender + shift @ cell - x_receiver of every slot, [N, M, 3] (Angstrom); zero on padding.

    In float32 the result is that of float64, rounded once, where the batch carries what rounding took from positions and cell
    (`positions_low`, `cell_low`): coordinates of 50 Angstrom are known to 4e-6 Angstrom only, which stiff bonds turn into forces.
    """
    positions = graph.nodes["positions"]
    cell = graph.globals["cell"][graph.nodes["graph"]]  # [N, 3, 3]
    shift = rows(graph.edges["shift"], graph).astype(positions.dtype)
    neighbors = gather_neighbors(positions, rows(graph.senders, graph), graph.edges["reverse"])
    vectors = neighbors - positions[:, None] + jnp.matmul(shift, cell, precision=jax.lax.Precision.HIGHEST)
    if "positions_low" not in graph.nodes:
        return vectors
    # The derivative is that of the plain expression; only the value is mended.
    terms = jax.lax.stop_gradient((vectors, positions, neighbors, shift, cell))
    return vectors + (_mended(graph, *terms[1:]) - terms[0])


def without_low(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """The batch without what rounding took from positions and cell: edge vectors are then differences of rounded positions."""
    nodes = {name: value for name, value in graph.nodes.items() if name != "positions_low"}
    return graph._replace(nodes=nodes, globals={name: value for name, value in graph.globals.items() if name != "cell_low"})


def _mended(graph: jraph.GraphsTuple, positions: jax.Array, neighbors: jax.Array, shift: jax.Array, cell: jax.Array) -> jax.Array:
    """Edge vectors by sums without error (Knuth's two-sum): large parts exactly, what they lose and all small parts at the end."""
    low = graph.nodes["positions_low"]
    # With its last 12 bits off, a lattice vector times a small integer is exact.
    integer = jax.lax.bitcast_convert_type(cell, jnp.int32)
    coarse = jax.lax.bitcast_convert_type(integer & jnp.int32(-(1 << 12)), cell.dtype)
    fine = (cell - coarse) + graph.globals["cell_low"][graph.nodes["graph"]]
    total = neighbors
    lost = low[rows(graph.senders, graph)] - low[:, None] + jnp.matmul(shift, fine, precision=jax.lax.Precision.HIGHEST)
    for term in (-positions[:, None], *(shift[..., k, None] * coarse[:, None, k] for k in range(3))):
        new = total + term
        rest = new - total
        lost += (total - (new - rest)) + (term - rest)
        total = new
    return total + lost


def sum_per_graph(x: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Sum of a node array [N, ...] over the atoms of each structure, [G, ...]: a one-hot matmul, so that no scatter is needed.

    A structure with a non-finite term sums to NaN and leaves the others untouched, which a plain product (0 * NaN) would not.
    """
    num_graphs = graph.n_node.shape[0]
    member = ((graph.nodes["graph"] == jnp.arange(num_graphs, dtype=jnp.int32)[:, None]) & graph.nodes["mask"]).astype(x.dtype)  # [G, N]
    flat = x.reshape(x.shape[0], -1)
    finite = jnp.isfinite(flat)
    total = jnp.matmul(member, jnp.where(finite, flat, 0), precision=jax.lax.Precision.HIGHEST)
    spoilt = jnp.matmul(member, (~finite).astype(x.dtype), precision=jax.lax.Precision.HIGHEST)
    return jnp.where(spoilt > 0, jnp.nan, total).reshape((num_graphs,) + x.shape[1:])


def safe_norm(vectors: jax.Array) -> jax.Array:
    """Length of vectors [..., 3], with finite derivatives (zero) of every order where atoms coincide."""
    squared = jnp.sum(vectors**2, axis=-1)
    coincident = squared <= _COINCIDENT**2  # False for NaN, which must not pass for a length
    return jnp.where(coincident, 0, jnp.sqrt(jnp.where(coincident, 1, squared)))


def spherical_harmonics(vectors: jax.Array, lengths: jax.Array, l_max: int) -> jax.Array:
    """Real harmonics of degrees 0 to l_max of the directions, [..., (l_max + 1)^2].

    Component normalisation, |Y_l|^2 = 2l + 1, and e3nn's order of axes: Y_1 = sqrt(3) (x, y, z) / r. Degrees above 0 vanish where r = 0.
    """
    return harmonics(_direction(vectors, lengths), l_max)


@jax.custom_jvp
def _direction(vectors: jax.Array, lengths: jax.Array) -> jax.Array:
    """Unit vectors [..., 3] of vectors of these lengths; zero where the length is."""
    return _divide(vectors, lengths)


@_direction.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    # A direction turns with the part of a motion across it. Of the quotient's two terms, each as large as 1 / r, the parts along it would
    # have to cancel, and leave their rounding at short distances. The length's own tangent is in this already.
    vectors, lengths = primals
    direction = _direction(vectors, lengths)
    along = jnp.sum(direction * tangents[0], axis=-1, keepdims=True)
    return direction, _divide(tangents[0] - direction * along, lengths)


def _divide(x: jax.Array, lengths: jax.Array) -> jax.Array:
    coincident = (lengths == 0)[..., None]
    return jnp.where(coincident, 0, x / jnp.where(coincident, 1, lengths[..., None]))
