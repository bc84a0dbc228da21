"""AMSGrad as torch defines it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AmsgradState(NamedTuple):
    """State of `scale_by_amsgrad`; the trees have the shapes of the parameters."""

    count: jax.Array  # [] int32, updates so far
    mu: Any  # mean of gradients
    nu: Any  # mean of squared gradients
    nu_max: Any  # largest nu so far, not bias-corrected


def scale_by_amsgrad(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Rescale gradients as `torch.optim.Adam(amsgrad=True)` does.

    With bias corrections c1 = 1 - b1^t and c2 = 1 - b2^t,

        update = (mu / c1) / (sqrt(max over steps of nu) / sqrt(c2) + eps).

    `optax.scale_by_amsgrad` takes the maximum over nu / c2 instead. As c2 starts near 0, its early maxima never go away, and its steps
    end several times smaller. Reference: Reddi, Kale and Kumar, On the Convergence of Adam and Beyond, 2018, algorithm 2 (without bias
    correction).
    """

    def init(params: optax.Params) -> AmsgradState:
        def zeros() -> Any:
            return jax.tree.map(jnp.zeros_like, params)

        return AmsgradState(jnp.zeros((), jnp.int32), zeros(), zeros(), zeros())

    def update(updates: optax.Updates, state: AmsgradState, params: optax.Params | None = None) -> tuple[optax.Updates, AmsgradState]:
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        c1, c2 = _bias_correction(b1, count), _bias_correction(b2, count)

        def direction(m: jax.Array, v: jax.Array) -> jax.Array:
            return (m / c1.astype(m.dtype)) / (jnp.sqrt(v) / jnp.sqrt(c2).astype(v.dtype) + eps)

        return jax.tree.map(direction, mu, nu_max), AmsgradState(count, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def _bias_correction(decay: float, count: jax.Array) -> jax.Array:
    """1 - decay^count; by expm1, because 1 - 0.999 keeps five digits in float32."""
    return -jnp.expm1(count.astype(jnp.result_type(float)) * math.log(decay))
