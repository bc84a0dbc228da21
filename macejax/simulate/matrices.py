"""Functions of many 3 x 3 matrices, [..., 3, 3], without branches or solvers: quick to compile and on every device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

SQUARINGS, ORDER = 6, 9  # exact to rounding for norms up to 8


def inverse(m: Any) -> Any:
    """By cofactors; of numpy arrays on the host, of jax's in a program."""
    xp = m.__array_namespace__()
    a, b, c = m[..., 0, :], m[..., 1, :], m[..., 2, :]
    first = xp.linalg.cross(b, c)
    columns = xp.stack([first, xp.linalg.cross(c, a), xp.linalg.cross(a, b)], axis=-1)
    return columns / xp.sum(a * first, axis=-1)[..., None, None]


def volumes(m: jax.Array) -> jax.Array:
    """Absolute values of the determinants [...]."""
    return jnp.abs(jnp.sum(m[..., 0, :] * jnp.cross(m[..., 1, :], m[..., 2, :]), axis=-1))


def exponential(m: jax.Array) -> jax.Array:
    """By scaling and squaring of exp(m) - 1, so that small strains keep their digits."""
    part = m / 2**SQUARINGS
    term = total = part
    for k in range(2, ORDER + 1):
        term = jnp.matmul(term, part, precision=jax.lax.Precision.HIGHEST) / k
        total = total + term
    for _ in range(SQUARINGS):
        total = 2 * total + jnp.matmul(total, total, precision=jax.lax.Precision.HIGHEST)
    return jnp.eye(3, dtype=m.dtype) + total
