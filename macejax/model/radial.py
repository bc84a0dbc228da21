"""Radial basis, cutoff and the radial network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

# 1 / sqrt(E[f(x)^2]), x standard normal, as e3nn 0.4.4 estimated them from one million samples: weights of mace-torch expect these digits.
SILU_SCALE = 1.6791767923989418
TANH_SCALE = 1.5937334472592695
ABS_SCALE = 1.001110600838467
AGNESI = {"q": 0.9183, "p": 4.5791, "a": 1.0805}
SOFT = {"alpha": 4.0}
# Below this argument sin(x) / x is its Taylor series. The quotient's derivatives lose digits there, for they are differences of 1 / x^n.
_SERIES_BELOW = 1.0
_SERIES_TERMS = 10  # the next one, x^22 / 23!, is beneath float64


def bessel(lengths: jax.Array, num: int, cutoff: float) -> jax.Array:
    """sqrt(2 / r_c) sin(n pi r / r_c) / r for n = 1 ... num (Gasteiger et al. 2020, eq. 7), [..., num]; finite, with its derivatives, at
    r = 0.
    """
    frequency = jnp.asarray([n * math.pi / cutoff for n in range(1, num + 1)], lengths.dtype)
    return math.sqrt(2 / cutoff) * frequency * _sinc(frequency * lengths[..., None])


def polynomial_cutoff(lengths: jax.Array, cutoff: float | jax.Array, power: int) -> jax.Array:
    """Envelope that falls from 1 to 0 with two continuous derivatives at the cutoff (Gasteiger et al. 2020, eq. 8); 0 beyond."""
    p = float(power)
    u = lengths / cutoff
    inside = u < 1
    u = jnp.where(inside, u, 1)
    high = p * (p + 2) * u - (p + 1) * (p + 2) / 2 - p * (p + 1) / 2 * u**2
    return jnp.where(inside, 1 + u**power * high, 0)


def agnesi(lengths: jax.Array, radii: jax.Array) -> jax.Array:
    """Agnesi transform of distances, from 1 at r = 0 to 0 far away (Witt et al., J. Chem. Phys. 159, 164101 (2023)), with the constants of
    mace-torch: 1 / (1 + a x^q / (1 + x^(q - p))), x in units of half the sum of the covalent radii, `radii`.
    """
    x = lengths / (radii / 2)
    # Numerator and denominator times x^(p - q), so that no power is negative: finite at r = 0, and so are three derivatives.
    return 1 / (1 + AGNESI["a"] * x ** AGNESI["p"] / (x ** (AGNESI["p"] - AGNESI["q"]) + 1))


def soft(lengths: jax.Array, radii: jax.Array) -> jax.Array:
    """Distances that do not fall below three quarters of the sum of the covalent radii, `radii`: mace-torch's SoftTransform."""
    low, high = 3 / 4 * radii, 4 / 3 * radii
    steps = (1 + jnp.tanh(SOFT["alpha"] / (high - low) * (lengths - (low + high) / 2))) / 2
    return low + (lengths - low) * steps


TRANSFORMS = {"Agnesi": agnesi, "Soft": soft}


class RadialNetwork(nn.Module):
    """Dense layers without bias, weights scaled by 1/sqrt(fan in), silu normalised to unit variance between them.

    Attributes:
      widths: hidden widths, then the output width.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, num_inputs: int, dtype: jnp.dtype) -> tuple[jax.Array, ...]:
        """The scaled weight matrices, to be applied by `apply_layers` (an operation applies them block by block)."""
        fans = (num_inputs, *self.widths[:-1])
        shapes = zip(fans, self.widths, strict=True)
        weights = [self.param(f"layer{i}", nn.initializers.normal(1.0), shape, dtype) for i, shape in enumerate(shapes)]
        return tuple(weight / math.sqrt(weight.shape[0]) for weight in weights)


def hidden_layers(weights: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    """[..., inputs] through layers that each end in the non-linearity."""
    for weight in weights:
        x = jax.nn.silu(x @ weight) * SILU_SCALE
    return x


def _sinc(x: jax.Array) -> jax.Array:
    near = jnp.abs(x) < _SERIES_BELOW
    small, large = jnp.where(near, x, 0), jnp.where(near, 1, x)
    y = small**2
    series = jnp.ones_like(x)
    for k in range(_SERIES_TERMS, 0, -1):
        series = 1 - y / (2 * k * (2 * k + 1)) * series
    return jnp.where(near, series, jnp.sin(large) / large)
