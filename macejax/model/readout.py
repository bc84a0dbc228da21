"""Scalar features -> energy of each atom, by the head of its structure."""

from __future__ import annotations

import math
from collections.abc import Callable

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.radial import ABS_SCALE, SILU_SCALE, TANH_SCALE

GATES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": lambda x: jax.nn.silu(x) * SILU_SCALE,
    "tanh": lambda x: jnp.tanh(x) * TANH_SCALE,
    "abs": lambda x: jnp.abs(x) * ABS_SCALE,
    "none": lambda x: x,
}


class LinearReadout(nn.Module):
    """One weight per scalar channel and head."""

    num_heads: int = 1

    @nn.compact
    def __call__(self, h: jax.Array, heads: jax.Array) -> jax.Array:
        """Features [N, D, K], scalars first, and heads [N, H], 1 for the atom's own -> [N]."""
        return _own(_dense(self, "linear", h[:, 0], self.num_heads), heads)


class NonLinearReadout(nn.Module):
    """One hidden layer, of which each head has its own part."""

    hidden_irreps: str
    gate: str
    num_heads: int = 1

    @nn.compact
    def __call__(self, h: jax.Array, heads: jax.Array) -> jax.Array:
        """As `LinearReadout`."""
        width = self.num_heads * e3nn.Irreps(self.hidden_irreps).count("0e")
        hidden = _masked(GATES[self.gate](_dense(self, "linear_1", h[:, 0], width)), heads)
        return _own(_dense(self, "linear_2", hidden, self.num_heads), heads)


class NonLinearBiasReadout(nn.Module):
    """Two hidden layers, biases in the second and at the end: mace-torch's NonLinearBiasReadoutBlock."""

    hidden_irreps: str
    gate: str
    num_heads: int = 1

    @nn.compact
    def __call__(self, h: jax.Array, heads: jax.Array) -> jax.Array:
        """As `LinearReadout`."""
        width, act = self.num_heads * e3nn.Irreps(self.hidden_irreps).count("0e"), GATES[self.gate]
        hidden = _masked(act(_dense(self, "linear_1", h[:, 0], width)), heads)
        hidden = _masked(act(_dense(self, "linear_mid", hidden, width) + self._bias("bias_mid", width, h.dtype)), heads)
        return _own(_dense(self, "linear_2", hidden, self.num_heads) + self._bias("bias_2", self.num_heads, h.dtype), heads)

    def _bias(self, name: str, width: int, dtype: jnp.dtype) -> jax.Array:
        return self.param(name, nn.initializers.zeros, (width,), dtype)


READOUTS: dict[str, Callable[..., nn.Module]] = {"NonLinear": NonLinearReadout, "NonLinearBias": NonLinearBiasReadout}


def _dense(module: nn.Module, name: str, x: jax.Array, width: int) -> jax.Array:
    weight = module.param(name, nn.initializers.normal(1.0), (x.shape[-1], width), x.dtype)
    return x @ weight * (1 / math.sqrt(x.shape[-1]))


def _masked(hidden: jax.Array, heads: jax.Array) -> jax.Array:
    """Hidden features [N, H * width], head by head, without those of other heads."""
    if heads.shape[1] == 1:
        return hidden
    parts = hidden.reshape(heads.shape[0], heads.shape[1], -1)
    return (parts * heads[:, :, None]).reshape(hidden.shape)


def _own(energies: jax.Array, heads: jax.Array) -> jax.Array:
    """Of every head's energy [N, H] that of the atom's own."""
    return energies[:, 0] if heads.shape[1] == 1 else jnp.sum(energies * heads, axis=1)
