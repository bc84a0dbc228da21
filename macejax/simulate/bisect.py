"""Search in sorted rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def bisect_rows(table: jax.Array, row: jax.Array, value: jax.Array) -> jax.Array:
    """The first place in a row that does not hold less than a value, [...] int32; M where there is none.

    By bisection in as many gathers as M has binary digits, with no array larger than the result.

    Args:
      table: [N, M], every row ascending.
      row: [...] int32, the row to look in; broadcasts with `value`.
      value: [...]
    """
    flat, width = table.ravel(), table.shape[1]
    shape = jnp.broadcast_shapes(row.shape, value.shape)
    low, high = jnp.zeros(shape, jnp.int32), jnp.full(shape, width, jnp.int32)
    for _ in range(width.bit_length()):
        between = (low + high) // 2
        below = (flat[row * width + jnp.minimum(between, width - 1)] < value) & (low < high)
        low, high = jnp.where(below, between + 1, low), jnp.where(below, high, between)
    return low
