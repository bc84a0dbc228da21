"""The state of training: arrays only, and what the counters mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.config import OptimizerConfig, ScheduleConfig
from macejax.train.optimizer import make_optimizer
from macejax.train.schedule import set_learning_rate
from macejax.train.state import begin_stage, end_epoch, init_state, record_validation
from tests.train.toy import init_params


def new_state(kind: str = "amsgrad", ema: bool = True):
    params = init_params()
    schedule = ScheduleConfig(kind="constant" if kind == "schedulefree" else "plateau")
    return init_state(params, make_optimizer(OptimizerConfig(kind=kind, schedule=schedule), params, 5), ema=ema)


@pytest.mark.parametrize("kind", ["amsgrad", "adam", "amsgradw", "adamw", "schedulefree"])
def test_the_state_is_a_tree_of_arrays_and_nothing_else(kind):
    """Nothing weakly typed either: its dtype would change with the first step, and every program be compiled twice."""
    state = new_state(kind, ema=kind != "schedulefree")
    leaves = jax.tree.leaves(state)
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in leaves)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves), "a donated buffer must not occur twice"


def test_it_owns_its_parameters():
    params = init_params()
    state = init_state(params, make_optimizer(OptimizerConfig(), params, 5), ema=True)
    jax.tree.map(lambda x: x.delete(), state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_validations():
    """A value that is not finite is never the best, also when it is the first."""
    state = new_state()
    for value, best, best_epoch, stalled in (
        (jnp.nan, np.inf, -1, 1),
        (-jnp.inf, np.inf, -1, 2),
        (3.0, 3.0, 3, 0),
        (jnp.nan, 3.0, 3, 1),
        (3.0, 3.0, 3, 2),
        (2.0, 2.0, 6, 0),
        (jnp.inf, 2.0, 6, 1),
    ):
        state = record_validation(end_epoch(state), value)
        assert (float(state.best_value), int(state.best_epoch), int(state.stalled)) == (best, best_epoch, stalled)
    assert int(state.epoch) == 7 and state.best_value.dtype == new_state().best_value.dtype


def test_a_stage_begins_with_a_clean_slate():
    state = record_validation(end_epoch(new_state()), 1.0)
    state = begin_stage(state, 1, set_learning_rate(state.opt_state, 1e-3))
    assert int(state.stage) == 1 and int(state.epoch) == 1
    assert np.isinf(state.best_value) and int(state.best_epoch) == -1 and int(state.stalled) == 0


def test_host_side_changes_keep_structure_and_types():
    state = new_state()
    changed = begin_stage(record_validation(end_epoch(state), np.float64(1)), 1, state.opt_state)
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(changed), strict=True):
        assert (a.dtype, a.shape, a.weak_type) == (b.dtype, b.shape, b.weak_type)
