"""The only file that knows about devices: steps of training and evaluation over all of them with `jax.pmap`.

State and parameters go in and come out without a device axis (pmap replicates them); batches carry one. With several processes
(`jax.distributed.initialize` before anything else) every process calls the step with the same state and with its own part of the batch,
`[local devices, ...]`; rows of the same shape in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from macejax.cache import Compilation
from macejax.config import ConfigError
from macejax.potential import Prediction, predict
from macejax.potential.predict import SiteEnergy
from macejax.train.ema import update_ema
from macejax.train.loss import Loss
from macejax.train.metrics import ErrorSums, error_sums
from macejax.train.schedule import applied_learning_rate
from macejax.train.state import TrainState
from macejax.train.step import Gradient, loss_and_gradient

AXIS = "devices"
_PROGRAM = "_fun"  # what jax.pmap calls every program it makes

Info = dict[str, Any]


class Evaluation(NamedTuple):
    """What one evaluation step says; every array has a leading axis of local devices."""

    prediction: Prediction
    errors: dict[str, ErrorSums]  # per structure, [D, G] each
    terms: dict[str, tuple[jax.Array, jax.Array]]  # numerator and count [D] of each term of the loss
    index: jax.Array  # [D, G] int32, position of the structure in its data set, -1 on padding


def local_devices(asked: int | None, option: str) -> int:
    """Number of local devices to use: as many as were asked for, or all.

    Raises:
      ConfigError: there are fewer than the `option` asks for.
    """
    there = jax.local_device_count()
    if (asked or 1) > there:
        raise ConfigError(f"{option} is {asked}, but there are {there} devices.")
    return asked or there


def make_train_step(
    site_energy: SiteEnergy,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float | None = None,
    num_devices: int | None = None,
    trainable: Any = None,
) -> Callable[[TrainState, jraph.GraphsTuple], tuple[TrainState, Info]]:
    """A function `(state, batch) -> (state, info)` that does one step over all devices.

    Loss and gradient are sums over structures divided by counts over all devices, so that the result does not depend on where a structure
    lies. Where the loss or the norm of the gradient is not finite, the step changes nothing but its counters. The state that goes in is
    donated: use the one that comes out. Nothing waits for the device; reading a value of `info` does.

    `info`: loss, grad_norm (before clipping), learning_rate [] float; finite [] bool; terms, mean of each term; skipped,
    consecutive_skipped [] int32; suspects [devices, G] int32, see `loss_and_gradient`.

    Args:
      site_energy: `(params, vectors, graph) -> node energies`.
      loss: from `loss_terms`.
      optimizer: from `make_optimizer`.
      ema_decay: decay of the moving average; needs a state that has one.
      num_devices: how many devices of each process to use, all by default.
      trainable: tree of bools like the parameters: of which a gradient is computed; see `loss_and_gradient`.
    """

    def step(state: TrainState, batch: jraph.GraphsTuple) -> tuple[TrainState, Info]:
        if (ema_decay is None) != (state.ema is None):
            raise ValueError("ema_decay and the state do not agree: init_state(ema=True) and ema_decay belong together.")
        gradient = loss_and_gradient(site_energy, loss, state.params, batch, partial(jax.lax.psum, axis_name=AXIS), trainable)
        new, info = _advance(state, gradient, optimizer, ema_decay)
        # From all devices, so that every process can name the frames.
        return new, {**info, "suspects": jax.lax.all_gather(gradient.suspects, AXIS)}

    devices = _devices(num_devices)
    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, None), donate_argnums=0, devices=devices)
    replicated = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec())

    def train_step(state: TrainState, batch: jraph.GraphsTuple) -> tuple[TrainState, Info]:
        # A new or restored state is not on the devices yet; pmap would compile once for it and once more for what it returns. With several
        # processes only what comes from the host can be put on all of them, and jax sees to it that they agree.
        if getattr(state.step, "sharding", None) != replicated:
            state = jax.device_put(jax.device_get(state), replicated)
        return mapped(state, batch)

    return train_step


def make_eval_step(
    site_energy: SiteEnergy, loss: Loss, *, num_devices: int | None = None
) -> Callable[[Any, jraph.GraphsTuple], Evaluation]:
    """A function `(params, batch) -> Evaluation` over the local devices; processes do not talk to each other in it.

    Args:
      site_energy: `(params, vectors, graph) -> node energies`.
      loss: whose terms are reported; see `metrics.mean_loss`.
      num_devices: how many local devices to use, all by default.
    """

    def step(params: Any, batch: jraph.GraphsTuple) -> Evaluation:
        prediction = predict(site_energy, params, batch)
        return Evaluation(prediction, error_sums(prediction, batch), loss.terms(prediction, batch), batch.globals["index"])

    mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), devices=jax.local_devices()[:num_devices])
    return lambda params, batch: mapped(jax.tree.map(_local, params), batch)


def is_step(program: Compilation) -> bool:
    """Whether a program that was compiled is a step of training or evaluation, and none of jax's many small ones."""
    return _PROGRAM in program.name


def _advance(
    state: TrainState, gradient: Gradient, optimizer: optax.GradientTransformation, ema_decay: float | None
) -> tuple[TrainState, Info]:
    """The state after a step, which is the old one but for its counters where loss or gradient is not finite."""
    grad_norm = optax.tree.norm(gradient.params)
    finite = jnp.isfinite(gradient.loss) & jnp.isfinite(grad_norm)
    failed = (~finite).astype(jnp.int32)
    updates, opt_state = optimizer.update(gradient.params, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None or ema_decay is None else update_ema(state.ema, params, ema_decay)

    def if_finite(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    new = state._replace(
        step=state.step + 1,
        position=state.position + 1,
        params=if_finite(params, state.params),
        ema=if_finite(ema, state.ema),
        opt_state=if_finite(opt_state, state.opt_state),
        skipped=state.skipped + failed,
        consecutive_skipped=failed * (state.consecutive_skipped + 1),
    )
    info = {
        "loss": gradient.loss,
        "terms": gradient.terms,
        "grad_norm": grad_norm,
        "finite": finite,
        "learning_rate": applied_learning_rate(opt_state),
        "skipped": new.skipped,
        "consecutive_skipped": new.consecutive_skipped,
    }
    return new, info


def _local(x: Any) -> Any:
    """This process's copy of an array that is replicated over the devices of several."""
    return x if getattr(x, "is_fully_addressable", True) else x.addressable_data(0)


def _devices(num_devices: int | None) -> list[Any]:
    """The first `num_devices` devices of each process, all by default."""
    per_process = [jax.local_devices(process_index=process) for process in range(jax.process_count())]
    fewest = min(map(len, per_process))
    if num_devices is not None and not 1 <= num_devices <= fewest:
        raise ValueError(f"{num_devices} devices are asked for, and there are {fewest}.")
    return [device for devices in per_process for device in devices[:num_devices]]
