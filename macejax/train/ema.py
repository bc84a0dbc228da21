"""Exponential moving average of parameters, as torch_ema keeps it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Ema(NamedTuple):
    """Average of parameters over updates."""

    params: Any  # the average, shaped as the parameters
    count: jax.Array  # [] int32, updates so far


def init_ema(params: Any) -> Ema:
    """The average before any update: a copy of `params`, so that both can be donated."""
    return Ema(jax.tree.map(lambda x: jnp.array(x, copy=True), params), jnp.zeros((), jnp.int32))


def update_ema(ema: Ema, params: Any, decay: float) -> Ema:
    """One update: average -= (1 - d) (average - params), with d = min(decay, (1 + n) / (10 + n)) at the n-th update, from 1."""
    count = ema.count + 1
    n = count.astype(jnp.result_type(float))
    share = 1 - jnp.minimum(decay, (1 + n) / (10 + n))
    return Ema(jax.tree.map(lambda s, p: s - share.astype(s.dtype) * (s - p), ema.params, params), count)
