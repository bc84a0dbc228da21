"""Configuration -> everything a training run needs: data, model, optimizer, compiled steps, and the state before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from macejax.cache import Compilation
from macejax.checkpoint.training import remove_leftovers
from macejax.config import ConfigError, LossConfig, TrainConfig
from macejax.config.predicts import PREDICTS
from macejax.data.graph import Graph
from macejax.data.loader import Loader, Step
from macejax.data.pack import pack_all
from macejax.model.model import build
from macejax.potential.predict import SiteEnergy
from macejax.train.labels import check_validation, count_labels, require_labels
from macejax.train.log import Log, StepLog
from macejax.train.loss import Loss, loss_terms
from macejax.train.optimizer import make_optimizer, rate_factors
from macejax.train.parallel import local_devices, make_eval_step, make_train_step
from macejax.train.prepare import Prepared, first_params, prepare
from macejax.train.schedule import schedule_factor
from macejax.train.start import Start
from macejax.train.state import TrainState, init_state


class Stage(NamedTuple):
    """What differs between the two stages of training."""

    loss: Loss
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]


class Run(NamedTuple):
    """All that a run needs beside its state."""

    config: TrainConfig
    folder: Path
    writes: bool  # this process writes the files of the run
    prepared: Prepared
    log: Log
    steps: StepLog
    optimizer: optax.GradientTransformation
    stages: tuple[Stage, ...]
    loader: Loader
    valid: Sequence[Step]
    stop: Callable[[], str | None]  # why the run should stop, None as long as it should not


def check(config: TrainConfig, start: Start | None) -> None:
    """Refuse, before the data are read, what the sections of the configuration cannot know by themselves.

    Args:
      config: of the run.
      start: the model that it starts from.

    Raises:
      ConfigError: no such block, irreps, devices or precision; a loss or schedule that cannot be.
    """
    if config.run.dtype == "float64" and not jax.config.jax_enable_x64:
        raise ConfigError("run.dtype is float64, but JAX computes in float32: call jax.config.update('jax_enable_x64', True) first.")
    local_devices(config.run.device_count, "run.device_count")
    config.run.precision.require(jax.default_backend())
    try:
        build(config.model.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=1.0, scale=1.0, shift=0.0))
        schedule_factor(config.optimizer.schedule, 1, config.run.epochs)
        for loss in _losses(config):
            _require_predicted((start.model.config if start else config.model).model, loss.kind, loss_terms(loss).weights)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _require_predicted(model: str, kind: str, terms: Iterable[str]) -> None:
    """Refuse a loss of what the model does not predict."""
    if missing := [term for term in terms if term not in PREDICTS[model]]:
        fitting = {"AtomicDipolesMACE": "dipole", "EnergyDipolesMACE": "energy_forces_dipole", "AtomicDielectricMACE": "dipole_polar"}
        raise ConfigError(
            f"the loss {kind} has a term for {missing[0]}, which {model} does not predict: choose loss.kind "
            f"{fitting.get(model, 'weighted')}."
        )


def set_up(
    config: TrainConfig,
    start: Start | None,
    folder: Path,
    writes: bool,
    log: Log,
    stop: Callable[[], str | None],
    compiled: Sequence[Compilation] = (),
) -> tuple[Run, TrainState]:
    """Data, model, optimizer and steps of a run, and the state before its first step.

    Args:
      config, folder, log: of the run.
      start: model that it starts from; None for random weights.
      writes: this process writes the files of the run; it also removes what an interrupted save has left.
      stop: says why the run should stop, None as long as it should not.
      compiled: grows with the programs that are compiled.

    Raises:
      ConfigError: an option that fits neither data nor the model to start from.
      DataError: the data cannot be used.
    """
    if writes:
        for name in ("last", "best"):
            remove_leftovers(folder / "checkpoints" / name)
    with _warnings_to(log):
        prepared = prepare(config, log.warn, start)
    local = local_devices(config.run.device_count, "run.device_count")
    first = jax.process_index() * local
    loader = Loader(
        prepared.graphs["train"],
        config.data.batch_size,
        seed=config.run.seed,
        num_devices=local * jax.process_count(),
        devices=range(first, first + local),
        dtype=config.run.precision.parameters,
    )
    params = first_params(prepared, config)
    optimizer = make_optimizer(config.optimizer, params, loader.steps_per_epoch, config.run.epochs)
    state = init_state(params, optimizer, ema=config.run.ema_decay is not None, seed=config.run.seed)
    apply = build(prepared.model, matmul_precision=config.run.precision.products).apply
    trainable = jax.tree.map(lambda factor: factor > 0, rate_factors(config.optimizer.rate_factors, params))
    stages = tuple(_stage(apply, loss_terms(loss), optimizer, config, local, trainable) for loss in _losses(config))
    for stage in stages:
        require_labels(prepared.graphs["train"], stage.loss.weights)
    check_validation(prepared.graphs["valid"], [stage.loss.weights for stage in stages], prepared.model.heads, log.warn)
    valid = pack_all(
        prepared.graphs["valid"], nodes=config.data.valid_batch_atoms, num_devices=local, dtype=config.run.precision.parameters
    )
    if config.data.edge_folder is None:
        valid = list(valid)  # made once, not in every validation
    sources = [structure.source for structure in prepared.structures["train"]]
    steps = StepLog(log, config.run.log_every, config.run.max_skipped, sources.__getitem__, compiled)
    _describe(log, prepared, loader, state, stages, local, trainable)
    return Run(config, folder, writes, prepared, log, steps, optimizer, stages, loader, valid, stop), state


def _losses(config: TrainConfig) -> list[LossConfig]:
    """The loss of each stage."""
    return [config.loss, config.stage_two_loss()] if config.stage_two.enabled else [config.loss]


def _stage(
    apply: SiteEnergy, loss: Loss, optimizer: optax.GradientTransformation, config: TrainConfig, local: int, trainable: Any
) -> Stage:
    train_step = make_train_step(apply, loss, optimizer, ema_decay=config.run.ema_decay, num_devices=local, trainable=trainable)
    return Stage(loss, train_step, make_eval_step(apply, loss, num_devices=local))


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _describe(
    log: Log, prepared: Prepared, loader: Loader, state: TrainState, stages: Sequence[Stage], devices: int, trainable: Any
) -> None:
    sizes = {name: f"{len(structures)} {name}" for name, structures in prepared.structures.items()}
    sizes["train"] += _partly(prepared.graphs["train"], stages)
    sizes_of = [leaf.size for leaf in jax.tree.leaves(state.params)]
    held = sum(size for size, moves in zip(sizes_of, jax.tree.leaves(trainable), strict=True) if not moves)
    parameters = f"{sum(sizes_of)} parameters" + (f" ({held} of them frozen)" if held else "")
    packing = loader.report()
    log.say(
        f"structures: {', '.join(sizes.values())}; {loader.steps_per_epoch} steps per epoch on {devices} {jax.default_backend()} device(s)"
    )
    log.say(
        f"batches: {packing['slot_efficiency']:.0%} of neighbour slots and {packing['node_efficiency']:.0%} of atom slots in use, "
        f"{packing['shapes_used']} shape(s) to compile"
    )
    model = prepared.model
    if prepared.start is not None:
        log.say(f"start: {prepared.start.describe(model.heads, model.elements)}")
    constants = "" if model.has_moments else f", scale {_listed(model.scales)}, shift {_listed(model.shifts)} eV"
    log.say(f"model: {parameters}, {model.hidden_irreps}; {model.avg_num_neighbors:.4g} neighbours{constants}")


def _partly(graphs: Sequence[Graph], stages: Sequence[Stage]) -> str:
    """How many training structures have each label of the losses, in brackets; nothing of labels that all of them have."""
    counts = {term: count_labels(graphs, term) for stage in stages for term in stage.loss.weights}
    parts = [f"{count} with {term}" for term, count in counts.items() if count < len(graphs)]
    return f" ({', '.join(parts)})" if parts else ""


@contextmanager
def _warnings_to(log: Log) -> Iterator[None]:
    """Warnings of the statistics as lines of the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: log.warn(str(message))
        yield
