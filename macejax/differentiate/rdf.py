"""A radial distribution function that is differentiable by positions."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors, rows, safe_norm


def radial_distribution(graph: jraph.GraphsTuple, radii: jax.Array, width: float) -> jax.Array:
    """g(r) [B] of a periodic structure, each pair a Gaussian instead of a count in a bin.

    g(r) = V / (4 pi r^2 N^2) sum over ordered pairs of exp(-(r - r_ij)^2 / (2 w^2)) / (w sqrt(2 pi)); w -> 0 is the usual one.

    Args:
      graph: batch of one structure whose edges reach a few widths beyond the largest radius; `refuse_short` checks that.
      radii: [B] Angstrom, all above 0.
      width: w, Angstrom.
    """
    real = rows(graph.edges["mask"], graph)
    vectors = edge_vectors(graph)
    lengths = safe_norm(jnp.where(real[..., None], vectors, jnp.ones(3, vectors.dtype)))
    number = jnp.sum(graph.nodes["mask"]).astype(vectors.dtype)

    def at(radius: jax.Array) -> jax.Array:
        kernel = jnp.exp(-((radius - lengths) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
        return jnp.sum(jnp.where(real, kernel, 0)) / (4 * math.pi * radius**2)

    # One radius after the other: all at once are B times as many numbers as there are edges.
    return graph.globals["volume"][0] / number**2 * jax.lax.map(jax.checkpoint(at), radii)


def refuse_short(reach: float, radii: jax.Array, width: float, widths: float = 4.0) -> None:
    """Raise ValueError where edges up to `reach` (Angstrom) leave out pairs that `radial_distribution` at `radii` should see."""
    need = float(jnp.max(radii)) + widths * width
    if reach < need:
        raise ValueError(
            f"a g(r) up to {float(jnp.max(radii)):.3g} Angstrom needs edges up to {need:.3g} Angstrom, and they end at {reach:.3g}."
        )
