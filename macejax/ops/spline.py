"""Functions of one variable from a table of polynomials of degree five, which meet with two continuous derivatives."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

DEGREE = 5
# Value, slope and curvature at t = 0 and at t = 1 -> coefficients of 1, t, ... t^5 (quintic Hermite interpolation).
_HERMITE = np.linalg.inv(
    [[math.perm(power, order) * (0.0 ** (power - order) if at == 0 else 1.0) if power >= order else 0.0 for power in range(DEGREE + 1)]
     for at in (0, 1) for order in range(3)]
)  # fmt: skip


def coefficients(values: np.ndarray, slopes: np.ndarray, curvatures: np.ndarray) -> np.ndarray:
    """The table of functions that are given with two derivatives at n + 1 knots, [n + 1, F] each, in units of their distance.

    Between two knots it differs from functions of distance h between knots by h^6 max |f^(6)| / 46080. Powers of t, not values at the
    knots, are kept: a slope is then no difference of neighbours, in which float32 would lose digits.

    Returns:
      [n + 1, 6, F], the last row being the constant beyond the last knot.
    """
    given = np.stack([values, slopes, curvatures], axis=1)
    inner = np.einsum("ck,nkf->ncf", _HERMITE, np.concatenate([given[:-1], given[1:]], axis=1))
    beyond = np.zeros_like(inner[:1])
    beyond[0, 0] = values[-1]
    return np.concatenate([inner, beyond])


def spline(table: jax.Array, x: jax.Array) -> jax.Array:
    """Values of F functions, [..., F], with the derivatives of the polynomials to any order, in forward and reverse mode.

    Args:
      table: `coefficients`, [n + 1, 6, F].
      x: [...] in units of the distance of knots, 0 or more. NaN stays NaN.
    """
    return _spline(0, table, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _spline(order: int, table: jax.Array, x: jax.Array) -> jax.Array:
    """The derivative of that order by x."""
    last = table.shape[0] - 1
    # Clipped as an integer, so that NaN, too, reads within the table.
    interval = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, last)
    t = jnp.where(x >= last, 0, x - interval.astype(x.dtype))[..., None]
    rows = table.at[interval].get(mode="promise_in_bounds")
    value = jnp.zeros_like(t)
    for power in range(DEGREE, order - 1, -1):
        value = value * t + math.perm(power, order) * rows[..., power, :]
    return value


def _spline_jvp(order, primals, tangents):
    (table, x), (of_table, of_x) = primals, tangents
    value = _spline(order, table, x)
    slope = jnp.zeros_like(value)
    if order < DEGREE and not isinstance(of_x, SymbolicZero):
        slope = slope + _spline(order + 1, table, x) * of_x[..., None]
    if not isinstance(of_table, SymbolicZero):
        slope = slope + _spline(order, of_table, x)
    return value, slope


_spline.defjvp(_spline_jvp, symbolic_zeros=True)
