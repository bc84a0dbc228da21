"""Scalar features -> energy of each atom."""

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
    """One weight per scalar channel."""

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Features [N, D, K] -> [N]."""
        return _dense(self, "linear", h[:, 0], 1)[:, 0]


class NonLinearReadout(nn.Module):
    """One hidden layer."""

    hidden_irreps: str
    gate: str

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Features [N, D, K] -> [N]."""
        hidden = _dense(self, "linear_1", h[:, 0], e3nn.Irreps(self.hidden_irreps).count("0e"))
        return _dense(self, "linear_2", GATES[self.gate](hidden), 1)[:, 0]


def _dense(module: nn.Module, name: str, x: jax.Array, width: int) -> jax.Array:
    weight = module.param(name, nn.initializers.normal(1.0), (x.shape[-1], width), x.dtype)
    return x @ (weight / math.sqrt(x.shape[-1]))
