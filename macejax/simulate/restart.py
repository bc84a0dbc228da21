"""The state of a running simulation in one file, from which it goes on as if it had never stopped."""

from __future__ import annotations

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
from macejax.data.structure import DataError
from macejax.simulate.integrators import State
from macejax.simulate.row_list import ListShape, RowList
from macejax.simulate.system import Evaluation

FORMAT = 1
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
    write_atomically(path, save(tensors, metadata={"macejax_md": json.dumps(header)}))


def load_state(path: FilePath) -> Saved:
    """Read a state file, its arrays put on the device.

    Raises:
      FileNotFoundError: there is none. DataError: it is damaged, or no state file.
    """
    content = Path(path).read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["macejax_md"])
        tensors = {name: jnp.asarray(value) for name, value in load(content).items()}
        shape = header["shape"]
        shape = ListShape(**{key: tuple(value) if isinstance(value, list) else value for key, value in shape.items()})
        found = Evaluation(**{name: tensors[f"found.{name}"] for name in Evaluation._fields})
        state = State(**{name: tensors[f"state.{name}"] for name in State._fields if name != "found"}, found=found)
        rows = RowList(**{f.name: tensors[f"rows.{f.name}"] for f in fields(RowList) if f.name != "shape"}, shape=shape)
        version, conditions, outputs = header["format"], header["conditions"], header["outputs"]
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: is damaged, or not the state of a simulation ({type(error).__name__}).") from error
    if version != FORMAT:
        raise DataError(f"{path}: has format {version}; this version of macejax reads {FORMAT}.")
    return Saved(state, rows, conditions, outputs)


def _tensors(saved: Saved) -> dict[str, Any]:
    state = {f"state.{name}": value for name, value in saved.state._asdict().items() if name != "found"}
    found = {f"found.{name}": value for name, value in saved.state.found._asdict().items()}
    rows = {f"rows.{f.name}": getattr(saved.rows, f.name) for f in fields(RowList) if f.name != "shape"}
    return state | found | rows
