"""Learning rate as state: schedules that count steps, a plateau that counts validations, a rate that can be set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from macejax.config import ScheduleConfig

# torch.optim.lr_scheduler.ReduceLROnPlateau leaves the rate alone when the change would be smaller.
SMALLEST_REDUCTION = 1e-8


class LearningRateState(NamedTuple):
    """State of `scale_by_learning_rate`."""

    base: jax.Array  # [] float, the rate before the schedule's factor; the plateau lowers it
    applied: jax.Array  # [] float, the rate of the last update
    step: jax.Array  # [] int32, updates so far
    best: jax.Array  # [] float, lowest validation value, for the plateau
    stalled: jax.Array  # [] int32, validations since then
    held: jax.Array  # [] bool, the rate is base, whatever the schedule


def scale_by_learning_rate(factor: Callable[[jax.Array], jax.Array], learning_rate: float) -> optax.GradientTransformation:
    """Multiply updates by minus the learning rate.

    Args:
      factor: step [] int32, from 0, to the factor [] on the learning rate; `schedule_factor` makes it.
      learning_rate: the rate at factor 1.
    """

    def init(params: optax.Params) -> LearningRateState:
        del params
        dtype = jnp.result_type(float)
        base = jnp.full((), learning_rate, dtype)
        step = jnp.zeros((), jnp.int32)
        return LearningRateState(
            base, base * factor(step).astype(dtype), step, jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        )

    def update(
        updates: optax.Updates, state: LearningRateState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, LearningRateState]:
        del params
        rate = state.base * jnp.where(state.held, 1, factor(state.step)).astype(state.base.dtype)
        return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), state._replace(applied=rate, step=state.step + 1)

    return optax.GradientTransformation(init, update)


def schedule_factor(config: ScheduleConfig, steps_per_epoch: int, num_epochs: int | None) -> Callable[[jax.Array], jax.Array]:
    """step [] int32 -> factor [] on the learning rate. The plateau's part is in the state, see `observe_validation`.

    Raises:
      ValueError: a cosine without `num_epochs`, or warm-up that leaves the cosine no epoch.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if config.kind == "cosine":
        if num_epochs is None or num_epochs <= config.warmup_epochs:
            raise ValueError(
                f"The cosine schedule needs a number of epochs above the {config.warmup_epochs:g} of warm-up; it was given {num_epochs}."
            )
        shape = optax.cosine_decay_schedule(1.0, max(round(num_epochs * steps_per_epoch) - warmup, 1), alpha=config.final_factor)
    elif config.kind == "exponential":
        rate = math.log(config.gamma)  # of the double: gamma^epoch in float32 would lose digits over thousands of epochs

        def shape(step: jax.Array) -> jax.Array:
            return jnp.exp(rate * ((step + warmup) // steps_per_epoch))

    else:
        shape = optax.constant_schedule(1.0)

    def factor(step: jax.Array) -> jax.Array:
        rise = jnp.minimum((step + 1).astype(jnp.result_type(float)) / max(warmup, 1), 1.0)  # int32 / int32 would be float32
        return rise * shape(jnp.maximum(step - warmup, 0))

    return factor


def observe_validation(opt_state: optax.OptState, value: jax.Array | float, config: ScheduleConfig) -> optax.OptState:
    """Tell the plateau, if `config` is one, the value [] of a validation; else return `opt_state` as it is. Works under jit.

    As torch.optim.lr_scheduler.ReduceLROnPlateau in mode min with a relative threshold: a value below (1 - threshold) * best is the new
    best; after more than `patience` others in a row the rate is multiplied by `factor`. A NaN is never an improvement. Call it once per
    validation, whatever the steps between.
    """
    if config.kind != "plateau":
        return opt_state

    def observe(state: LearningRateState) -> LearningRateState:
        better = value < state.best * (1 - config.threshold)
        stalled = jnp.where(better, 0, state.stalled + 1)
        reduce = (stalled > config.patience) & ~state.held
        lower = state.base * config.factor
        base = jnp.where(reduce & (state.base - lower > SMALLEST_REDUCTION), lower, state.base)
        best = jnp.where(better, value, state.best).astype(state.best.dtype)
        return state._replace(base=base, best=best, stalled=jnp.where(reduce, 0, stalled).astype(jnp.int32))

    return _map_learning_rate(observe, opt_state)


def set_learning_rate(opt_state: optax.OptState, learning_rate: float) -> optax.OptState:
    """Hold the learning rate at `learning_rate` from the next update on, whatever the schedule: what MACE's stage two does."""

    def hold(state: LearningRateState) -> LearningRateState:
        return state._replace(
            base=jnp.full_like(state.base, learning_rate),
            best=jnp.full_like(state.best, jnp.inf),
            stalled=jnp.zeros_like(state.stalled),
            held=jnp.ones_like(state.held),
        )

    return _map_learning_rate(hold, opt_state)


def applied_learning_rate(opt_state: optax.OptState) -> jax.Array:
    """Learning rate [] of the last update; before the first one, that of the first.

    Raises:
      ValueError: the optimizer was not made by `make_optimizer` and keeps no learning rate.
    """
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=_is_learning_rate) if _is_learning_rate(x)]
    if not found:
        raise ValueError("The optimizer state holds no learning rate: build the optimizer with macejax.train.optimizer.make_optimizer.")
    return found[0].applied


def _map_learning_rate(function: Callable[[LearningRateState], LearningRateState], opt_state: optax.OptState) -> optax.OptState:
    return jax.tree.map(lambda x: function(x) if _is_learning_rate(x) else x, opt_state, is_leaf=_is_learning_rate)


def _is_learning_rate(x: Any) -> bool:
    return isinstance(x, LearningRateState)
