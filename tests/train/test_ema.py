"""The moving average is torch_ema's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.train.ema import init_ema, update_ema


@pytest.mark.torch
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_equals_torch_ema(decay):
    torch = pytest.importorskip("torch")
    torch_ema = pytest.importorskip("torch_ema")
    random = np.random.default_rng(0)
    values = random.normal(size=(100, 3, 2))
    parameter = torch.nn.Parameter(torch.tensor(values[0]))
    theirs = torch_ema.ExponentialMovingAverage([parameter], decay=decay)
    ours = init_ema({"a": jnp.asarray(values[0])})
    update = jax.jit(lambda ema, a: update_ema(ema, {"a": a}, decay))
    for value in values[1:]:
        parameter.data = torch.tensor(value)
        theirs.update()
        ours = update(ours, value)
    np.testing.assert_allclose(ours.params["a"], theirs.shadow_params[0].numpy(), rtol=1e-13)
    assert int(ours.count) == 99


def test_early_updates_forget_the_start():
    """At the first update the share of the old is (1 + 1) / (10 + 1), whatever the decay."""
    ema = update_ema(init_ema({"a": jnp.zeros(1)}), {"a": jnp.ones(1)}, 0.99999)
    np.testing.assert_allclose(ema.params["a"], 9 / 11, rtol=1e-15)
