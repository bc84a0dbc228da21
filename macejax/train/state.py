"""The state of training: all that a run needs to go on as if it had never stopped."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from macejax.train.ema import Ema, init_ema
from macejax.train.optimizer import averaged_params


class TrainState(NamedTuple):
    """A pytree of arrays and nothing else. Counters are [] int32."""

    step: jax.Array  # steps so far, skipped ones included
    epoch: jax.Array  # epochs finished
    position: jax.Array  # steps so far in this epoch
    stage: jax.Array  # 0 in the first stage of training, 1 in the second
    params: Any  # what the optimizer moves
    ema: Ema | None  # moving average of params; None where none is kept
    opt_state: optax.OptState  # moments, learning rate, plateau
    rng: jax.Array  # [2] uint32, key of the run
    best_value: jax.Array  # [] float, lowest validation loss of this stage
    best_epoch: jax.Array  # epochs finished when it was found, -1 before the first validation
    stalled: jax.Array  # validations since then: what patience is compared with
    skipped: jax.Array  # steps without update because loss or gradient was not finite
    consecutive_skipped: jax.Array  # how many of them were the last ones


def init_state(params: Any, optimizer: optax.GradientTransformation, *, ema: bool = False, seed: int = 0) -> TrainState:
    """The state before the first step. It owns copies of `params`, which training steps may therefore donate.

    Raises:
      ValueError: `ema` together with schedule-free, which averages by itself.
    """
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    opt_state = optimizer.init(params)
    if ema and averaged_params(opt_state, params) is not params:
        raise ValueError("schedulefree evaluates on its own average of the parameters: switch the moving average (ema) off.")
    # A separate array for each counter: a donated buffer must not occur twice.
    counters = {
        name: jnp.zeros((), jnp.int32) for name in ("step", "epoch", "position", "stage", "stalled", "skipped", "consecutive_skipped")
    }
    return TrainState(
        params=params,
        ema=init_ema(params) if ema else None,
        opt_state=opt_state,
        rng=jax.random.key_data(jax.random.key(seed)),
        best_value=jnp.full((), jnp.inf, jnp.result_type(float)),
        best_epoch=jnp.full((), -1, jnp.int32),
        **counters,
    )


def eval_params(state: TrainState) -> Any:
    """The parameters to validate, test and save: the moving average, or schedule-free's, or, with neither, the parameters themselves."""
    if state.ema is not None:
        return state.ema.params
    return averaged_params(state.opt_state, state.params)


def end_epoch(state: TrainState) -> TrainState:
    """One more epoch finished, position at its start."""
    return state._replace(epoch=state.epoch + 1, position=jnp.zeros_like(state.position))


def record_validation(state: TrainState, value: jax.Array | float) -> TrainState:
    """Take note of a validation loss. A value that is not finite is never the best; it counts against patience."""
    value = jnp.asarray(value, state.best_value.dtype)
    better = jnp.isfinite(value) & (value < state.best_value)
    return state._replace(
        best_value=jnp.where(better, value, state.best_value),
        best_epoch=jnp.where(better, state.epoch, state.best_epoch),
        stalled=jnp.where(better, 0, state.stalled + 1).astype(jnp.int32),
    )


def begin_stage(state: TrainState, stage: int, opt_state: optax.OptState) -> TrainState:
    """Enter a stage: best value and patience start anew, because its loss is another one."""
    return state._replace(
        stage=jnp.full_like(state.stage, stage),
        opt_state=opt_state,
        best_value=jnp.full_like(state.best_value, jnp.inf),
        best_epoch=jnp.full_like(state.best_epoch, -1),
        stalled=jnp.zeros_like(state.stalled),
    )
