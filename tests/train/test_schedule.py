"""Learning rates: torch's schedulers, as state of the optimizer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.config import OptimizerConfig, ScheduleConfig
from macejax.train.optimizer import make_optimizer
from macejax.train.schedule import applied_learning_rate, observe_validation, schedule_factor, set_learning_rate

PARAMS = {"a": jnp.zeros(2)}


def optimizer_of(schedule: ScheduleConfig, steps_per_epoch: int = 4, num_epochs: int | None = None, kind: str = "adam"):
    config = OptimizerConfig(kind=kind, learning_rate=0.01, schedule=schedule)
    return make_optimizer(config, PARAMS, steps_per_epoch, num_epochs)


def step(optimizer, state):
    return optimizer.update({"a": jnp.ones(2)}, state, PARAMS)[1]


def rates(schedule: ScheduleConfig, steps: int, **options) -> list[float]:
    optimizer = optimizer_of(schedule, **options)
    state, found = optimizer.init(PARAMS), []
    update = jax.jit(partial(step, optimizer))
    for _ in range(steps):
        state = update(state)
        found.append(float(applied_learning_rate(state)))
    return found


@pytest.mark.torch
def test_plateau_is_torchs_and_counts_validations():
    torch = pytest.importorskip("torch")
    schedule = ScheduleConfig(kind="plateau", factor=0.5, patience=3, threshold=1e-2)
    optimizer = optimizer_of(schedule)
    state = optimizer.init(PARAMS)
    theirs = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.01)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=3, threshold=1e-2)
    random = np.random.default_rng(0)
    observe = jax.jit(partial(observe_validation, config=schedule))
    update = jax.jit(partial(step, optimizer))
    seen = set()
    for epoch in range(150):
        value = float("nan") if epoch % 17 == 5 else float(np.exp(-epoch / 30) + 0.02 * random.normal() + 0.3)
        for _ in range(int(random.integers(0, 4))):  # steps between validations do not matter
            state = update(state)
        state = observe(state, value)
        plateau.step(value)
        expected = theirs.param_groups[0]["lr"]
        np.testing.assert_allclose(float(applied_learning_rate(update(state))), expected, rtol=1e-14)
        seen.add(expected)
    assert len(seen) > 4


def test_only_a_plateau_listens_to_validations():
    schedule = ScheduleConfig(kind="exponential")
    state = optimizer_of(schedule).init(PARAMS)
    assert observe_validation(state, 1.0, schedule) is state


def test_exponential_falls_once_per_epoch():
    found = rates(ScheduleConfig(kind="exponential", gamma=0.9), 12)
    np.testing.assert_allclose(found, [0.01 * 0.9 ** (i // 4) for i in range(12)], rtol=1e-14)


def test_cosine_with_warm_up():
    found = rates(ScheduleConfig(kind="cosine", warmup_epochs=1.5, final_factor=0.1), 44, num_epochs=10)
    np.testing.assert_allclose(found[:6], [0.01 * (i + 1) / 6 for i in range(6)], rtol=1e-14)
    progress = np.minimum(np.arange(38) / 34, 1)
    np.testing.assert_allclose(found[6:], 0.01 * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2), rtol=1e-12)


@pytest.mark.parametrize("kind", ["constant", "plateau", "exponential"])
def test_warm_up_precedes_every_schedule(kind):
    found = rates(ScheduleConfig(kind=kind, warmup_epochs=2, **({"gamma": 1.0} if kind == "exponential" else {})), 10)
    np.testing.assert_allclose(found, [0.01 * min(i + 1, 8) / 8 for i in range(10)], rtol=1e-14)


def test_a_cosine_without_end_is_refused():
    for num_epochs in (None, 3):
        with pytest.raises(ValueError, match="cosine schedule needs a number of epochs above the 3"):
            schedule_factor(ScheduleConfig(kind="cosine", warmup_epochs=3), 10, num_epochs)


@pytest.mark.parametrize("kind", ["plateau", "exponential", "cosine", "constant"])
def test_a_rate_that_is_set_is_held(kind):
    own = {"plateau": {"patience": 0}, "exponential": {"gamma": 0.5}}
    schedule = ScheduleConfig(kind=kind, warmup_epochs=1, **own.get(kind, {}))
    optimizer = optimizer_of(schedule, num_epochs=9)
    state = optimizer.init(PARAMS)
    for _ in range(9):
        state = observe_validation(step(optimizer, state), 1.0, schedule)
    state = set_learning_rate(state, 1e-3)
    for _ in range(9):
        state = observe_validation(step(optimizer, state), 1.0, schedule)
        np.testing.assert_allclose(float(applied_learning_rate(state)), 1e-3, rtol=1e-15)


def test_schedule_free_can_warm_up_and_be_set():
    found = rates(ScheduleConfig(kind="constant", warmup_epochs=1), 6, kind="schedulefree")
    np.testing.assert_allclose(found, [0.01 * min(i + 1, 4) / 4 for i in range(6)], rtol=1e-14)
    optimizer = optimizer_of(ScheduleConfig(kind="constant"), kind="schedulefree")
    state = step(optimizer, set_learning_rate(optimizer.init(PARAMS), 5e-3))
    assert float(applied_learning_rate(state)) == 5e-3


def test_state_of_another_optimizer_has_no_rate():
    with pytest.raises(ValueError, match="make_optimizer"):
        applied_learning_rate(({"a": jnp.zeros(1)},))
