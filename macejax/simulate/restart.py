"""The state of a running simulation in one file, from which it goes on as if it had never stopped."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import jax.numpy as jnp

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.simulate.integrators import State
from macejax.simulate.row_list import ListShape, RowList
from macejax.simulate.signed import DAMAGE, ONE, FilePath, damaged, read_signed, write_signed
from macejax.simulate.system import Evaluation

FORMAT = 3


class Saved(NamedTuple):
    """What a state file holds."""

    state: State
    rows: RowList
    conditions: dict[str, Any]  # of the run: what must be the same when it goes on
    outputs: dict[str, int]  # bytes that each output file had


def save_state(path: FilePath, saved: Saved) -> None:
    """Write the file, whole or not at all; the one before stays until then.

    Raises:
      OSError: the disk refuses.
    """
    header = {"format": FORMAT, "conditions": saved.conditions, "outputs": saved.outputs, "shape": saved.rows.shape._asdict()}
    write_signed(path, ONE, header, _tensors(saved))


def load_state(path: FilePath) -> Saved:
    """Read a state file, its arrays put on the device.

    Raises:
      FileNotFoundError: there is none. DataError: it is damaged, or no state file.
    """
    header, arrays = read_signed(path, ONE, FORMAT)
    try:
        tensors = {name: jnp.asarray(value) for name, value in arrays.items()}
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in header["shape"].items()}
        shape = ListShape(**values)
        found = Evaluation(**{name: tensors[f"found.{name}"] for name in Evaluation._fields})
        state = State(**{name: tensors[f"state.{name}"] for name in State._fields if name != "found"}, found=found)
        rows = RowList(**{f.name: tensors[f"rows.{f.name}"] for f in fields(RowList) if f.name != "shape"}, shape=shape)
        return Saved(state, rows, header["conditions"], header["outputs"])
    except DAMAGE as error:
        raise damaged(path, error) from error


def compare(saved: Saved, conditions: dict[str, Any], steps: int, path: FilePath) -> None:
    """Refuse to go on under other conditions, or to a step that is over.

    Raises:
      DataError: a condition that differs, named. ConfigError: the state is beyond `steps`.
    """
    for name, value in conditions.items():
        if saved.conditions.get(name) != value:
            was = "another" if isinstance(value, list | dict) else f"{saved.conditions.get(name)}, not {value}"
            raise DataError(f"{path}: is of a run that cannot go on like this; its {name} was {was}.")
    if int(saved.state.step) > steps:
        raise ConfigError(f"{path} is at step {int(saved.state.step)} already, beyond the {steps} steps that are asked for.")


def _tensors(saved: Saved) -> dict[str, Any]:
    state = {f"state.{name}": value for name, value in saved.state._asdict().items() if name != "found"}
    found = {f"found.{name}": value for name, value in saved.state.found._asdict().items()}
    rows = {f"rows.{f.name}": getattr(saved.rows, f.name) for f in fields(RowList) if f.name != "shape"}
    return state | found | rows
