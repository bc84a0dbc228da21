"""A run so small that it can be done many times: water near its minimum, labels of a toy formula, one interaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from macejax.config import TrainConfig, load_config
from macejax.data.structure import Structure
from macejax.data.write import write

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])  # Angstrom
BONDS = ((0, 1, 0.96), (0, 2, 0.96), (1, 2, 1.52))  # springs of 30 eV/Angstrom^2 and their lengths at rest


def waters(count: int, seed: int = 0) -> list[Structure]:
    """Distorted water molecules with energies and forces of three springs, and some isolated atoms' worth of energy."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        positions = WATER + 0.1 * random.normal(size=(3, 3))
        energy, forces = -10.0, np.zeros((3, 3))
        for i, j, rest in BONDS:
            bond = positions[j] - positions[i]
            length = np.linalg.norm(bond)
            energy += 15 * (length - rest) ** 2
            pull = 30 * (length - rest) * bond / length
            forces[i] += pull
            forces[j] -= pull
        kind = "odd" if number % 3 else "even"
        found.append(Structure(np.array([8, 1, 1]), positions, energy=energy, forces=forces, config_type=kind, source=f"water {number}"))
    return found


def configuration(folder: Path, name: str = "tiny", structures: list[Structure] | None = None, **options: Any) -> TrainConfig:
    """A run of 8 epochs of 5 steps in `folder`, with moving average, plateau, second stage and checkpoints between epochs.

    Args:
      options: overrides, dots written as two underscores: `run__epochs=2`.
    """
    file = folder / "water.xyz"
    if not file.exists() or structures is not None:
        write(file, structures or waters(22))
    values: dict[str, Any] = {
        "run.name": name,
        "run.directory": str(folder),
        "run.epochs": 8,
        "run.ema_decay": 0.9,
        "run.save_every": 7,
        "run.log_every": 4,
        "run.seed": 1,
        "data.train": str(file),
        "data.valid_fraction": 0.19,
        "data.batch_size": 4,
        "data.e0s": {"H": -1.0, "O": -8.0},
        "model.hidden_irreps": "4x0e",
        "model.num_interactions": 1,
        "model.l_max": 1,
        "model.correlation": 1,
        "model.radial_mlp": [8],
        "model.cutoff": 3.0,
        "optimizer.schedule.patience": 1,
        "optimizer.schedule.threshold": 0.9,
        "stage_two.enabled": True,
        "stage_two.start": 6,
    }
    given = {key.replace("__", "."): value for key, value in options.items()}
    idle = {
        "data.valid_fraction": "data.valid" in given,
        "optimizer.schedule.patience": "optimizer.schedule.kind" in given,
        "optimizer.schedule.threshold": "optimizer.schedule.kind" in given,
        "stage_two.start": given.get("stage_two.enabled") is False,
    }
    return load_config(None, {name: value for name, value in values.items() if not idle.get(name)} | given)


@contextmanager
def shared_steps() -> Iterator[None]:
    """Within, runs of the same model and loss share their compiled steps, and write no reports: what they compute stays the same."""
    from macejax.train import finish, setup

    made: dict[Any, Any] = {}

    def once(make: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def wrapped(apply: Any, loss: Any, *rest: Any, **options: Any) -> Any:
            key = (kind, str(apply.__self__.config), tuple(loss.weights.items()), repr(options))
            return made.setdefault(key, made.get(key) or make(apply, loss, *rest, **options))

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_train_step", once(setup.make_train_step, "train"))
        patch.setattr(setup, "make_eval_step", once(setup.make_eval_step, "eval"))
        patch.setattr(finish, "write_report", lambda *_: None)
        yield
