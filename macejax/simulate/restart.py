"""The state of a running simulation in one file, from which it goes on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from macejax.checkpoint.atomic import write_atomically
from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.simulate.integrators import State
from macejax.simulate.row_list import ListShape, RowList
from macejax.simulate.system import Evaluation

FORMAT = 2
_DAMAGE = (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
FilePath = str | os.PathLike[str]


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
    tensors = {name: np.asarray(value, order="C") for name, value in _tensors(saved).items()}
    header = {"format": FORMAT, "conditions": saved.conditions, "outputs": saved.outputs, "shape": saved.rows.shape._asdict()}
    digest = _digest(header, save(tensors))
    write_atomically(path, save(tensors, metadata={"macejax_md": json.dumps({"header": header, "sha256": digest})}))


def load_state(path: FilePath) -> Saved:
    """Read a state file, its arrays put on the device.

    Raises:
      FileNotFoundError: there is none. DataError: it is damaged, or no state file.
    """
    content = Path(path).read_bytes()
    header = _header(path, content)
    try:
        tensors = {name: jnp.asarray(value) for name, value in load(content).items()}
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in header["shape"].items()}
        shape = ListShape(**values)
        found = Evaluation(**{name: tensors[f"found.{name}"] for name in Evaluation._fields})
        state = State(**{name: tensors[f"state.{name}"] for name in State._fields if name != "found"}, found=found)
        rows = RowList(**{f.name: tensors[f"rows.{f.name}"] for f in fields(RowList) if f.name != "shape"}, shape=shape)
        return Saved(state, rows, header["conditions"], header["outputs"])
    except _DAMAGE as error:
        raise _damaged(path, error) from error


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


def load_outputs(path: FilePath) -> dict[str, int]:
    """How many bytes each output file had when the state was saved.

    Raises:
      As `load_state`.
    """
    return _header(path, Path(path).read_bytes())["outputs"]


def _header(path: FilePath, content: bytes) -> dict[str, Any]:
    try:
        length = int.from_bytes(content[:8], "little")
        signed = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["macejax_md"])
        header = signed["header"]
        whole = _digest(header, content) == signed["sha256"]
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if not whole:
        raise DataError(f"{path}: is damaged: its contents do not agree with their checksum.")
    if header["format"] != FORMAT:
        raise DataError(f"{path}: has format {header['format']}; this version of macejax reads {FORMAT}.")
    return header


def _digest(header: dict[str, Any], content: bytes) -> str:
    """Of the header, and of names, shapes and bytes of the tensors."""
    length = int.from_bytes(content[:8], "little")
    tensors = {name: entry for name, entry in json.loads(content[8 : 8 + length]).items() if name != "__metadata__"}
    return hashlib.sha256(json.dumps([header, tensors], sort_keys=True).encode() + content[8 + length :]).hexdigest()


def _damaged(path: FilePath, error: Exception) -> DataError:
    return DataError(f"{path}: is damaged, or not the state of a simulation ({type(error).__name__}).")


def _tensors(saved: Saved) -> dict[str, Any]:
    state = {f"state.{name}": value for name, value in saved.state._asdict().items() if name != "found"}
    found = {f"found.{name}": value for name, value in saved.state.found._asdict().items()}
    rows = {f"rows.{f.name}": getattr(saved.rows, f.name) for f in fields(RowList) if f.name != "shape"}
    return state | found | rows
