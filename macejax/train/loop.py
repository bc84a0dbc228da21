"""A training run, from files to a model file: `train` and the functions below it read in the order in which the run goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.cache import compilations
from macejax.checkpoint.atomic import write_atomically
from macejax.checkpoint.lock import lock
from macejax.checkpoint.manifest import CheckpointError
from macejax.checkpoint.training import has_checkpoint, save_checkpoint
from macejax.config import ConfigError, TrainConfig, dump_config
from macejax.train.finish import export_best, finish
from macejax.train.guard import stop_on_signal
from macejax.train.log import open_log
from macejax.train.metrics import ALL
from macejax.train.prepare import first_params
from macejax.train.resume import checkpoint_info, restore
from macejax.train.schedule import applied_learning_rate, observe_validation, set_learning_rate
from macejax.train.setup import Run, check, set_up
from macejax.train.start import read_start
from macejax.train.state import TrainState, begin_stage, end_epoch, eval_params, record_validation
from macejax.train.table import COLUMNS
from macejax.train.validate import Validation, validate


class Outcome(NamedTuple):
    """How a run ended."""

    state: TrainState
    model_path: Path | None  # None where it was stopped before its end
    stopped_by: str | None


def train(config: TrainConfig, *, resume: bool = False, quiet: bool = False, stop: Callable[[], str | None] | None = None) -> Outcome:
    """Train a model and write model file, metrics and report into `<run.directory>/<run.name>`.

    The precision of JAX must be set before: x64 on for run.dtype float64.

    Args:
      config: everything about the run.
      resume: go on from the newest good checkpoint; where there is none yet, begin.
      quiet: nothing on the console.
      stop: asked after each step; a reason ends the run with a checkpoint. By default SIGTERM and SIGUSR1 do.

    Raises:
      ConfigError: the configuration cannot be used, or is not that of the run to resume.
      FileNotFoundError, ModelFileError, TorchImportError, FetchError: the model to start from cannot be read.
      DataError: the data cannot be used.
      CheckpointError: there are checkpoints, but none is whole.
      LockError: another process writes to this folder.
      NonFiniteError: loss or gradient was not finite in run.max_skipped steps in a row.
      OSError: the disk refuses.
    """
    start = read_start(config.start)
    check(config, start)
    folder = Path(config.run.directory) / config.run.name
    writes = jax.process_index() == 0
    with ExitStack() as stack:
        if writes:
            stack.enter_context(lock(folder))
        if not resume and (has_checkpoint(folder / "checkpoints" / "last") or has_checkpoint(folder / "checkpoints" / "best")):
            raise ConfigError(f"{folder} holds the checkpoints of a run: go on with it (--resume), or choose another run.name.")
        log = stack.enter_context(open_log(folder if writes else None, quiet=quiet or not writes))
        signalled = stack.enter_context(stop_on_signal())
        compiled = stack.enter_context(compilations())
        run, state = set_up(config, start, folder, writes, log, stop or signalled, compiled)
        if resume:
            state = restore(folder, state, config, run.prepared.fingerprint, run.steps, log)
            _require_agreement(int(state.step))
        if writes:
            write_atomically(folder / "config.yaml", dump_config(config).encode())
        if int(state.step) == 0:
            log.rewind(-1)
            state = _begin(run, state)
        while not _is_over(run, state):
            state = _enter_stage_two_if_due(run, state)
            state, reason = _train_epoch(run, state)
            if reason is not None:
                _save(run, "last", state)
                log.say(f"stopped by {reason} after step {int(state.step)}; the state is saved, go on with --resume.")
                return Outcome(state, None, reason)
            state = _end_epoch(run, state)
        path = finish(config, folder, run.prepared, state, run.stages[int(state.stage)], run.loader, log) if writes else None
        _require_agreement(int(state.step))  # the others wait for the one that writes
        return Outcome(state, path, None)


def _begin(run: Run, state: TrainState) -> TrainState:
    """Validate the weights before the first step."""
    result = _validate(run, state)
    state = _with_start(run, state, result)
    _report(run, state, result, best=int(state.best_epoch) == 0)
    return state


def _with_start(run: Run, state: TrainState, result: Validation) -> TrainState:
    """With the weights of the model to start from, and their validation, as the best so far of a stage. Random ones are none to keep."""
    if run.prepared.params is None or not np.isfinite(result.loss):
        return state
    return state._replace(best_value=jnp.asarray(result.loss, state.best_value.dtype), best_epoch=jnp.zeros_like(state.best_epoch))


def _is_over(run: Run, state: TrainState) -> bool:
    last_stage = int(state.stage) == len(run.stages) - 1
    return int(state.epoch) >= run.config.run.epochs or (last_stage and int(state.stalled) >= run.config.run.patience)


def _enter_stage_two_if_due(run: Run, state: TrainState) -> TrainState:
    """The second stage begins at its epoch or when the first runs out of patience, from the weights as they are, at a constant rate."""
    due = int(state.epoch) >= run.config.stage_two_start() or int(state.stalled) >= run.config.run.patience
    if len(run.stages) == 1 or int(state.stage) == 1 or int(state.position) > 0 or not due:
        return state
    if run.writes:
        export_best(run.config, run.folder, run.prepared, state, run.folder / f"{run.config.run.name}_stage_one.mace", run.log.warn)
    run.log.write("stage", step=int(state.step), epoch=int(state.epoch), stage=2)
    run.log.say(
        f"second stage from epoch {int(state.epoch)} on: new weights of the loss, learning rate {run.config.stage_two.learning_rate:g}."
    )
    state = begin_stage(state, 1, set_learning_rate(state.opt_state, run.config.stage_two.learning_rate))
    if run.prepared.params is None:
        return state
    return _with_start(run, state, _validate(run, state, first_params(run.prepared, run.config)))


def _train_epoch(run: Run, state: TrainState) -> tuple[TrainState, str | None]:
    """The rest of an epoch. Returns with a reason where the run is to stop."""
    epoch, position, step = int(state.epoch), int(state.position), int(state.step)
    train_step = run.stages[int(state.stage)].train_step
    run.steps.begin_epoch()
    for batch, indices in run.loader.epoch(epoch, position):
        state, info = train_step(state, batch)
        step, position = step + 1, position + 1
        fetched = run.steps.add(step, epoch, info, indices)
        run.log.advance(epoch + 1, position, run.loader.steps_per_epoch, f"loss {run.steps.last['loss']:.4g}" if run.steps.last else "")
        if reason := _agreed(run.stop, fetched):
            return state, reason
        if position < run.loader.steps_per_epoch and _is_due(run, step):  # the last step's state is saved when the epoch has been counted
            _save(run, "last", state)
    return state, None


def _is_due(run: Run, step: int) -> bool:
    return run.config.run.save_every is not None and step % run.config.run.save_every == 0


def _end_epoch(run: Run, state: TrainState) -> TrainState:
    """Validate where it is due, remember the best, and save."""
    state = end_epoch(state)
    train_loss = run.steps.end_epoch(int(state.step), int(state.epoch))
    if not _validates(run, state):
        if _is_due(run, int(state.step)):
            _save(run, "last", state)
        return state
    result = _validate(run, state)
    opt_state = observe_validation(state.opt_state, jnp.asarray(result.loss), run.config.optimizer.schedule)
    state = record_validation(state._replace(opt_state=opt_state), result.loss)
    best = int(state.best_epoch) == int(state.epoch)
    _report(run, state, result, train_loss, best)
    if best:
        _save(run, "best", state)  # before `last`: a run resumed from `last` finds the best that its state speaks of
    _save(run, "last", state)
    return state


def _validates(run: Run, state: TrainState) -> bool:
    """Whether a validation is due after the epochs so far; one is at the end of a stage, so that there is a best epoch of it."""
    epoch, first_of_two = int(state.epoch), int(state.stage) < len(run.stages) - 1
    return epoch % run.config.run.validate_every == 0 or epoch >= (run.config.stage_two_start() if first_of_two else run.config.run.epochs)


def _validate(run: Run, state: TrainState, params: Any = None) -> Validation:
    """Validate the averaged weights, or others."""
    stage = run.stages[int(state.stage)]
    params = eval_params(state) if params is None else params
    return validate(stage.eval_step, stage.loss, params, run.valid, run.prepared.structures["valid"])


def _report(run: Run, state: TrainState, result: Validation, train_loss: float | None = None, best: bool = False) -> None:
    """A line of metrics and one for the reader; before the first step there is no `train_loss`."""
    errors = {f"{name}_{kind}": getattr(result.errors[ALL][name], kind) for name in result.errors[ALL] for kind in ("mae", "rmse")}
    rate = float(applied_learning_rate(state.opt_state))
    run.log.write(
        "validation",
        step=int(state.step),
        epoch=int(state.epoch),
        loss=result.loss,
        train_loss=train_loss,
        best=best,
        learning_rate=rate,
        skipped=int(state.skipped),
        **errors,
    )
    maes = (
        f"{symbol} {1000 * errors[f'{name}_mae']:.4g} {unit}"
        for name, (symbol, unit) in COLUMNS.items()
        if name != "virials_per_atom" and np.isfinite(errors.get(f"{name}_mae", np.nan))
    )
    train_text = "" if train_loss is None else f"train {train_loss:.4g}  "
    run.log.say(
        f"epoch {int(state.epoch):4d}  {train_text}valid {result.loss:.4g}  MAE {', '.join(maes)}  lr {rate:.3g}{'  best' if best else ''}"
    )


def _save(run: Run, kind: str, state: TrainState) -> None:
    """Write a checkpoint to `last` or `best`, with all that is needed to go on as if the run had never stopped."""
    run.steps.drain()
    if run.writes:
        info = checkpoint_info(run.config, run.prepared.fingerprint, run.steps, run.log.lines, state)
        save_checkpoint(run.folder / "checkpoints" / kind, int(state.step), state, info, keep=run.config.run.keep if kind == "last" else 1)


def _agreed(stop: Callable[[], str | None], fetched: bool) -> str | None:
    """Whether to stop. Several processes agree on it when they wait for the device anyway; each alone would leave the others hanging."""
    if jax.process_count() == 1:
        return stop()
    return "a signal" if fetched and any(_of_all_processes(int(stop() is not None))) else None


def _require_agreement(step: int) -> None:
    """All processes are at the same step; in passing, each waits for the others."""
    if len(set(_of_all_processes(step))) > 1:
        raise CheckpointError("the processes found different checkpoints: run.directory must be on a file system that all of them share.")


def _of_all_processes(value: int) -> list[int]:
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(value)).tolist()
