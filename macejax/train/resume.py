"""Going on with a run: what a checkpoint remembers beside the state, and whether it is a checkpoint of this run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from macejax.checkpoint.manifest import CheckpointError
from macejax.checkpoint.training import restore_checkpoint
from macejax.config import ConfigError, DataConfig, TrainConfig
from macejax.config.run import second_stage_start
from macejax.train.log import Log, StepLog
from macejax.train.state import TrainState

# Options that may change from one part of a run to the next: they move no weight of the steps already done. Paths are among them, for
# files may move; that data and weights to start from are the same is told by the
# fingerprint. Of run.epochs `_require_same_options` knows more.
MAY_CHANGE = {
    *(f"run.{name}" for name in ("directory", "epochs", "patience", "device_count", "keep", "save_every", "max_skipped", "log_every")),
    *(f"data.{name}" for name in ("train", "valid", "test", "valid_batch_atoms", "edge_folder")),
    "start.model",
}


def checkpoint_info(config: TrainConfig, fingerprint: str, steps: StepLog, lines: int, state: TrainState) -> dict[str, Any]:
    """What goes into the manifest of a checkpoint beside the arrays; `lines` is the number of lines of metrics so far."""
    return {
        "config": config.model_dump(mode="json"),
        "fingerprint": fingerprint,
        "memory": steps.memory,
        "lines": lines,
        "epoch": int(state.epoch),
    }


def restore(folder: Path, template: TrainState, config: TrainConfig, fingerprint: str, steps: StepLog, log: Log) -> TrainState:
    """The newest good state of a run; `template` itself where the run has no checkpoint yet. Metrics and running sums are set back to it.

    Raises:
      CheckpointError: no checkpoint is whole, or the data or the model are not those of the run.
      ConfigError: an option differs that would change the run.
    """
    folders = [folder / "checkpoints" / "last", folder / "checkpoints" / "best"]
    try:
        state, info = restore_checkpoint(folders, template, log.warn)
    except FileNotFoundError:
        log.say(f"there is nothing to resume in {folder}: the run begins.")
        return template
    _require_same_options(info["config"], config.model_dump(mode="json"))
    if info["fingerprint"] != fingerprint:
        start = "" if config.start.model is None else ", or the weights to start from,"
        raise CheckpointError(
            f"the training or validation structures{start} are not those with which {folder} was begun: resume with the same."
        )
    steps.memory.update(info["memory"])
    log.rewind(info["step"], info.get("lines"))  # a checkpoint of an earlier macejax does not tell the latter
    log.say(f"resumed at step {info['step']}, epoch {int(state.epoch)}.")
    return jax.tree.map(jnp.asarray, state)


def _require_same_options(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = _effective(then), _effective(now)
    # A run of an earlier macejax was begun as options that it did not have are by default.
    defaults = _effective(TrainConfig(data=DataConfig(train=("",))).model_dump(mode="json"))
    old |= {name: defaults[name] for name in new.keys() - old.keys() if name in defaults}
    name = "run.epochs"
    if new["optimizer.schedule.kind"] == "cosine" and old[name] != new[name]:
        raise ConfigError(
            f"{name} was {old[name]} when the run was begun and is {new[name]} now, but the cosine schedule ends with the last epoch: "
            f"resume with {old[name]}, or choose another run.name."
        )
    for name in sorted(old.keys() | new.keys()):
        if name not in MAY_CHANGE and old.get(name) != new.get(name):
            hint = " (null is three quarters of run.epochs)" if name == "stage_two.start" else ""
            raise ConfigError(
                f"{name} was {old.get(name)} when the run was begun and is {new.get(name)} now{hint}: resume with the same value, or "
                f"choose another run.name."
            )


def _effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value of every option; where the second stage begins as a number, which moves with run.epochs where none is given."""
    options = dict(_leaves(config))
    if options["stage_two.enabled"]:
        options["stage_two.start"] = second_stage_start(options["run.epochs"], options["stage_two.start"])
    return options


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
