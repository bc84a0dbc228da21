"""Sums over the slots of a row, in an order that does not depend on how many slots there are: on a CPU, empty ones, which hold zeros and
come after the others, change no bit. (Of products in float32 that holds for rows of up to `_LONG_ROW` slots.)
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_LONG_ROW = 64  # slots


def add_slots(x: jax.Array) -> jax.Array:
    """[N, M, ...] -> [N, ...], as a product with ones: XLA's own sum has another order for every M, and is fused with what surrounds it."""
    num, slots = x.shape[:2]
    ones = jnp.ones((num, 1, slots), x.dtype)
    with jax.default_matmul_precision("highest"):
        return sum_slots(ones, x.reshape(num, slots, math.prod(x.shape[2:]))).reshape(num, *x.shape[2:])


def sum_slots(harmonics: jax.Array, features: jax.Array) -> jax.Array:
    """[B, Y, M] x [B, M, F] -> [B, Y, F]: long rows in parts, for one float32 sum of hundreds of terms loses a digit."""
    slots = features.shape[1]
    part = math.gcd(slots, _LONG_ROW)
    if slots <= _LONG_ROW or part < _LONG_ROW // 4 or features.dtype == jnp.float64:
        return jnp.matmul(harmonics, features)
    y = harmonics.reshape(*harmonics.shape[:2], -1, part)
    x = features.reshape(features.shape[0], -1, part, features.shape[2])
    return jnp.sum(jnp.matmul(jnp.swapaxes(y, 1, 2), x), axis=1)
