"""Optimizers: clip, decay, rescale, learning rate, chained in torch's order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from macejax.config import OptimizerConfig, RateFactors
from macejax.train.amsgrad import scale_by_amsgrad
from macejax.train.schedule import scale_by_learning_rate, schedule_factor

# torch.nn.utils.clip_grad_norm_ adds this to the norm that it divides by.
CLIP_EPSILON = 1e-6
# Beginnings of the names of a model's modules -> which of `RateFactors` is theirs. What has none of them has a factor of 1.
PARTS = {
    "node_embedding": "embedding",
    "joint_embedding": "embedding",
    "interaction_": "interactions",
    "product_": "products",
    "readout_": "readouts",
    "embedding_readout": "readouts",
}


def make_optimizer(
    config: OptimizerConfig, params: Any, steps_per_epoch: int, num_epochs: int | None = None
) -> optax.GradientTransformation:
    """The optimizer that `config` describes, with clipping, weight decay and learning rate in it.

    The order is torch's: clip the gradient, add weight_decay * parameter to it (amsgrad, adam), rescale, add weight_decay * parameter to
    the direction (amsgradw, adamw, schedulefree), multiply by the learning rate of its part of the model. Its state holds one
    `LearningRateState`, which `schedule.observe_validation`, `set_learning_rate` and `applied_learning_rate` find.

    Args:
      config: kind, learning rate, decay, clipping, schedule.
      params: parameters to optimize; only their names are used, see `decay_mask` and `rate_factors`.
      steps_per_epoch: steps that make an epoch, which the schedules count.
      num_epochs: epochs of the run; only the cosine schedule needs it.

    Raises:
      ValueError: the schedule does not fit `num_epochs`.
    """
    beta2 = config.beta2 if config.beta2 is not None else (0.98 if config.kind == "schedulefree" else 0.999)
    factor = schedule_factor(config.schedule, steps_per_epoch, num_epochs)
    factors = rate_factors(config.rate_factors, params)
    learning_rate = scale_by_learning_rate(factor, config.learning_rate)
    if any(x != 1 for x in jax.tree.leaves(factors)):
        learning_rate = optax.chain(learning_rate, scale_each(factors))
    decay = optax.add_decayed_weights(config.weight_decay, decay_mask(params)) if config.weight_decay > 0 else optax.identity()
    clip = optax.identity() if config.clip_norm is None else clip_by_global_norm(config.clip_norm)
    if config.kind == "schedulefree":
        # Momentum is schedule-free's own interpolation, hence b1 = 0 in Adam. optax counts steps from 1.
        base = optax.chain(optax.scale_by_adam(0.0, beta2, config.epsilon), decay, learning_rate)
        average = optax.contrib.schedule_free(base, lambda step: config.learning_rate * factor(step - 1), config.beta1)
        if all(jax.tree.leaves(factors)):
            return optax.chain(clip, average)
        # What is frozen stays as it is to the bit, which an average of equal numbers does not.
        return optax.chain(clip, average, scale_each(jax.tree.map(lambda x: float(x > 0), factors)))
    rescale = scale_by_amsgrad if config.kind.startswith("amsgrad") else optax.scale_by_adam
    directions = rescale(config.beta1, beta2, config.epsilon)
    if config.kind in ("amsgradw", "adamw"):
        return optax.chain(clip, directions, decay, learning_rate)
    return optax.chain(clip, decay, directions, learning_rate)


def rate_factors(config: RateFactors, params: Any) -> Any:
    """Tree of floats: the factor on the learning rate of each parameter, 0 where it is frozen."""

    def factor(path: tuple[Any, ...], _: Any) -> float:
        parts = (part for name in _names(path) for beginning, part in PARTS.items() if name.startswith(beginning))
        part = next(parts, None)
        return 1.0 if part is None else float(getattr(config, part))

    return jax.tree_util.tree_map_with_path(factor, params)


def decay_mask(params: Any) -> Any:
    """Tree of bools: the matrices that weight decay acts on.

    mace-torch (tools/scripts_utils.py, get_params_options) decays the linear after the convolution and all of the products, and not the
    embedding, linear_up, the radial network, the skip connections or the readouts. Here these are `interaction_*/linear` and `product_*`;
    a tree without such names has no decay.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        names = _names(path)
        block, inside = next(
            ((name, names[i + 1 :]) for i, name in enumerate(names) if name.startswith(("interaction_", "product_"))), ("", [])
        )
        return block.startswith("product_") or (block.startswith("interaction_") and inside[:1] == ["linear"])

    return jax.tree_util.tree_map_with_path(decays, params)


def scale_each(factors: Any) -> optax.GradientTransformation:
    """Multiply each update by a number of its own, of a tree like the parameters."""

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        return jax.tree.map(lambda u, factor: u * factor, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale gradients by min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. (optax's clipping has no 1e-6.)"""

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        scale = jnp.minimum(max_norm / (optax.tree.norm(updates) + CLIP_EPSILON), 1.0)
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def averaged_params(opt_state: optax.OptState, params: Any) -> Any:
    """The parameters to evaluate with: schedule-free's average where the optimizer is schedule-free, else `params`."""

    def is_schedule_free(x: Any) -> bool:
        return isinstance(x, optax.contrib.ScheduleFreeState)

    for state in jax.tree.leaves(opt_state, is_leaf=is_schedule_free):
        if is_schedule_free(state):
            return optax.contrib.schedule_free_eval_params(state, params)
    return params


def _names(path: tuple[Any, ...]) -> list[str]:
    """Of the modules that a parameter is in, and its own."""
    return [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
