"""The sum over the slots of a row."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_LONG_ROW = 64  # slots


def sum_slots(harmonics: jax.Array, features: jax.Array) -> jax.Array:
    """[B, Y, M] x [B, M, F] -> [B, Y, F]: long rows in parts, for one float32 sum of hundreds of terms loses a digit."""
    slots = features.shape[1]
    part = math.gcd(slots, _LONG_ROW)
    if slots <= _LONG_ROW or part < _LONG_ROW // 4:
        return jnp.matmul(harmonics, features)
    y = harmonics.reshape(*harmonics.shape[:2], -1, part)
    x = features.reshape(features.shape[0], -1, part, features.shape[2])
    return jnp.sum(jnp.matmul(jnp.swapaxes(y, 1, 2), x), axis=1)
