"""Radial basis, cutoff and the radial network."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# 1 / sqrt(E[f(x)^2]), x standard normal, as e3nn 0.4.4 estimated them from one million samples: weights of mace-torch expect these digits.
SILU_SCALE = 1.6791767923989418
TANH_SCALE = 1.5937334472592695
SIGMOID_SCALE = 1.8467055342154763
ABS_SCALE = 1.001110600838467
AGNESI = {"q": 0.9183, "p": 4.5791, "a": 1.0805}
SOFT = {"alpha": 4.0}
# Below this argument sin(x) / x is its Taylor series. The quotient's derivatives lose digits there, for they are differences of 1 / x^n.
_SERIES_BELOW = 1.0
_NORM_EPSILON = 1e-5
_SERIES_TERMS = 10  # the next one, x^22 / 23!, is beneath float64


def bessel(lengths: jax.Array, num: int, cutoff: float) -> jax.Array:
    """sqrt(2 / r_c) sin(n pi r / r_c) / r for n = 1 ... num (Gasteiger et al. 2020, eq. 7), [..., num]; finite, with its derivatives, at
    r = 0.
    """
    frequency = jnp.asarray([n * math.pi / cutoff for n in range(1, num + 1)], lengths.dtype)
    return math.sqrt(2 / cutoff) * frequency * _sinc(frequency * lengths[..., None])


def gaussian(lengths: jax.Array, num: int, cutoff: float) -> jax.Array:
    """exp(-((r - mu) / w)^2 / 2) for `num` centres mu from 0 to the cutoff, w apart, [..., num]."""
    centres = jnp.asarray(np.linspace(0.0, cutoff, num), lengths.dtype)
    return jnp.exp(-(((lengths[..., None] - centres) * ((num - 1) / cutoff)) ** 2) / 2)


def chebyshev(lengths: jax.Array, num: int, cutoff: float) -> jax.Array:
    """Chebyshev polynomials T_n(r), n = 1 ... num, of the distance as it is (Angstrom), as mace-torch has them, [..., num]."""
    del cutoff
    before, values = jnp.ones_like(lengths), [lengths]
    while len(values) < num:
        before, now = values[-1], 2 * lengths * values[-1] - before
        values.append(now)
    return jnp.stack(values, axis=-1)


BASES = {"bessel": bessel, "gaussian": gaussian, "chebyshev": chebyshev}


def polynomial_cutoff(lengths: jax.Array, cutoff: float | jax.Array, power: int) -> jax.Array:
    """Envelope that falls from 1 to 0 with two continuous derivatives at the cutoff (Gasteiger et al. 2020, eq. 8); 0 beyond."""
    u = lengths / cutoff
    inside = u < 1
    return jnp.where(inside, _envelope(jnp.where(inside, u, 1), power), 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _envelope(u: jax.Array, power: int) -> jax.Array:
    """(1 - u)^3 sum_{k < p} (k + 1)(k + 2)/2 u^k, which is 1 - (p + 1)(p + 2)/2 u^p + p(p + 2) u^(p + 1) - p(p + 1)/2 u^(p + 2): as written
    first nothing cancels, where the terms of the second are 50 times its value and more.
    """
    total = jnp.zeros_like(u)
    for k in reversed(range(power)):
        total = total * u + (k + 1) * (k + 2) / 2
    return (1 - u) ** 3 * total


@_envelope.defjvp
def _(power: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (u,), (tangent,) = primals, tangents
    slope = -power * (power + 1) * (power + 2) / 2 * u ** (power - 1) * (1 - u) ** 2
    return _envelope(u, power), slope * tangent


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
    """Dense layers without bias, each scaled by 1/sqrt(fan in), silu normalised to unit variance between them.

    Attributes:
      widths: hidden widths, then the output width.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, num_inputs: int, dtype: jnp.dtype) -> tuple[jax.Array, ...]:
        """The weight matrices, to be applied by `hidden_layers` and, the last one, to what that returns, by an operation block by block."""
        fans = (num_inputs, *self.widths[:-1])
        shapes = zip(fans, self.widths, strict=True)
        return tuple(self.param(f"layer{i}", nn.initializers.normal(1.0), shape, dtype) for i, shape in enumerate(shapes))


def hidden_layers(weights: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    """[..., inputs] through layers that each end in the non-linearity, over the root of their number, as the last layer's inputs are."""
    for weight in weights:
        x = jax.nn.silu(x @ weight * (1 / math.sqrt(weight.shape[0]))) * SILU_SCALE
    return x * (1 / math.sqrt(x.shape[-1]))


class NormedLayer(NamedTuple):
    """An affine map and, but for the last layer, the normalisation after it."""

    weight: jax.Array  # [inputs, width]
    bias: jax.Array  # [width]
    scale: jax.Array | None
    offset: jax.Array | None


class NormedNetwork(nn.Module):
    """Affine layers, layer normalisation and silu between them: mace-torch's RadialMLP, initialised as torch does.

    Attributes:
      widths: hidden widths, then the output width.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, num_inputs: int, dtype: jnp.dtype) -> tuple[NormedLayer, ...]:
        """The layers, to be applied by `normed_layers` (an operation applies them block by block)."""
        fans, layers = (num_inputs, *self.widths[:-1]), []
        for i, (fan, width) in enumerate(zip(fans, self.widths, strict=True)):
            weight = self.param(f"weight{i}", torch_uniform(fan), (fan, width), dtype)
            bias = self.param(f"bias{i}", torch_uniform(fan), (width,), dtype)
            scale = offset = None
            if i < len(self.widths) - 1:
                scale = self.param(f"scale{i}", nn.initializers.ones, (width,), dtype)
                offset = self.param(f"offset{i}", nn.initializers.zeros, (width,), dtype)
            layers.append(NormedLayer(weight, bias, scale, offset))
        return tuple(layers)


def normed_layers(layers: Sequence[NormedLayer], x: jax.Array) -> jax.Array:
    """[..., inputs] through layers that each end in normalisation and silu, and a 1 after the last: [..., width + 1]."""
    for layer in layers:
        x = x @ layer.weight + layer.bias
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + _NORM_EPSILON)
        x = jax.nn.silu(normed * layer.scale + layer.offset)
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


def affine_matrix(layer: NormedLayer) -> jax.Array:
    """An affine map as the matrix [inputs + 1, width] that acts on inputs followed by a 1."""
    return jnp.concatenate([layer.weight, layer.bias[None]])


def torch_uniform(fan: int) -> nn.initializers.Initializer:
    """Uniform between -1 / sqrt(fan in) and 1 / sqrt(fan in): torch's own choice for weights and biases of an affine map."""
    bound = 1 / math.sqrt(fan)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _sinc(x: jax.Array) -> jax.Array:
    near = jnp.abs(x) < _SERIES_BELOW
    small, large = jnp.where(near, x, 0), jnp.where(near, 1, x)
    y = small**2
    series = jnp.ones_like(x)
    for k in range(_SERIES_TERMS, 0, -1):
        series = 1 - y / (2 * k * (2 * k + 1)) * series
    return jnp.where(near, series, jnp.sin(large) / large)
