"""Real spherical harmonics as the polynomials of three variables that they are.

Those of e3nn-jax by the same recursion, with tables that numbers are enough for: e3nn-jax makes them with sympy, two thirds of a second in
every process.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np

_ZERO = 1e-12  # coefficients below are rounding


class _Product(NamedTuple):
    """A bilinear form, sparse: component k of the result is the sum of coefficient * a[i] * b[j]."""

    rows: tuple[tuple[tuple[float, int, int], ...], ...]

    def __call__(self, a: Sequence[jax.Array], b: Sequence[jax.Array]) -> list[jax.Array]:
        return [functools.reduce(operator.add, (coefficient * a[i] * b[j] for coefficient, i, j in row)) for row in self.rows]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def harmonics(vectors: jax.Array, l_max: int) -> jax.Array:
    """Solid harmonics r^l Y_lm of degrees 0 to l_max.

    Component normalisation, |Y_l|^2 = 2l + 1, and e3nn's order of axes: Y_1 = sqrt(3) (x, y, z).

    Args:
      vectors: [..., 3].

    Returns:
      [..., (l_max + 1)^2], differentiable to any order.
    """
    degrees = {0: [jnp.ones_like(vectors[..., 0])]}
    if l_max > 0:
        degrees[1] = [3**0.5 * vectors[..., k] for k in range(3)]
    for degree in range(2, l_max + 1):
        lower, power = _factors(degree)
        degrees[degree] = _growth(degree)(degrees[lower], degrees[power])
    return _joined(degrees.values())


@harmonics.defjvp
def _(l_max: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # A gradient of solid harmonics of degree l is a product of those of degree l - 1 (Varshalovich et al. 1988, section 5.8).
    values = harmonics(*primals, l_max)
    (direction,) = tangents
    along = [direction[..., k] for k in range(3)]
    degrees = [[jnp.zeros_like(along[0])]]
    for degree in range(1, l_max + 1):
        below = [values[..., k] for k in range((degree - 1) ** 2, degree**2)]
        degrees.append(_slope(degree)(below, along))
    return values, _joined(degrees)


def _factors(degree: int) -> tuple[int, int]:
    """Degrees of the two harmonics that make one of this degree: the second a power of two, so that chains are short."""
    power = 2 ** ((degree - 1).bit_length() - 1)
    return degree - power, power


@functools.cache
def _growth(degree: int) -> _Product:
    first, second = _factors(degree)
    symbol = e3nn.clebsch_gordan(first, second, degree)
    # At (0, 1, 0) all components but the middle one of every degree are zero, and that is the root of 2l + 1.
    middle = symbol[first, second, degree]
    return _sparse(symbol * ((2 * degree + 1) / ((2 * first + 1) * (2 * second + 1))) ** 0.5 / middle)


@functools.cache
def _slope(degree: int) -> _Product:
    symbol = e3nn.clebsch_gordan(degree - 1, degree, 1) * degree**0.5 * (2 * degree + 1)
    return _sparse(symbol.transpose(0, 2, 1))


def _sparse(symbol: np.ndarray) -> _Product:
    """Of coefficients [i, j, k]."""
    rows: list[list[tuple[float, int, int]]] = [[] for _ in range(symbol.shape[2])]
    for i, j, k in np.argwhere(np.abs(symbol) > _ZERO).tolist():
        rows[k].append((float(symbol[i, j, k]), i, j))
    return _Product(tuple(map(tuple, rows)))


def _joined(degrees: Iterable[Sequence[jax.Array]]) -> jax.Array:
    """Degree by degree: XLA fuses no concatenation of more than 8 parts on a CPU."""
    return jnp.concatenate([jnp.stack(list(rows), axis=-1) for rows in degrees], axis=-1)
