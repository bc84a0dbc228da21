"""Edges within the cutoff, out of a neighbour list that reaches further.

A list that outlasts many steps holds pairs beyond the cutoff, a third of all with a skin of a tenth of it, and room for more. A model
computes with every slot, at some 10^5 operations each; to leave them out takes some hundred.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors, rows
from macejax.simulate.bisect import bisect_rows


def prune(graph: jraph.GraphsTuple, cutoff: float, slots: int) -> tuple[jraph.GraphsTuple, jax.Array]:
    """The batch with its edges up to the cutoff alone, in their order, in rows of another width.

    Which edges there are does not move with the positions that are differentiated by: a model must vanish at its cutoff.

    Args:
      graph: batch in row form, without classes. Where a distance is NaN, its edge stays.
      cutoff: Angstrom.
      slots: M' of the result, which is M of `graph` at most.

    Returns:
      The batch, and how many edges each atom has within the cutoff, [N] int32: where they are more than `slots`, edges have been lost.
    """
    mask = rows(graph.edges["mask"], graph)
    number, width = mask.shape
    vectors = jax.lax.stop_gradient(edge_vectors(graph))
    # The vector of the reversed edge is the exact negative: both are near, or neither.
    near = mask & ~(jnp.sum(vectors**2, axis=-1) > cutoff**2)
    rank = jnp.cumsum(near, axis=1, dtype=jnp.int32)
    degrees = rank[:, -1]
    place, own = jnp.arange(slots, dtype=jnp.int32), jnp.arange(number, dtype=jnp.int32)[:, None]
    old = own * width + jnp.minimum(bisect_rows(rank, own, place + 1), width - 1)
    real = place < degrees[:, None]
    back = graph.edges["reverse"][old]
    there = back // width * slots + jnp.minimum(rank.ravel()[back], slots) - 1
    edges = {
        "shift": jnp.where(real[..., None], graph.edges["shift"][old], 0).reshape(-1, 3),
        "mask": real.ravel(),
        "reverse": jnp.where(real, there, own * slots + place).ravel(),
    }
    senders = jnp.where(real, graph.senders[old], own).ravel()
    receivers = jnp.broadcast_to(own, real.shape).ravel()
    pruned = graph._replace(edges=edges, senders=senders, receivers=receivers, n_edge=graph.n_node * slots)
    return pruned, degrees
