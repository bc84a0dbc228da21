"""Files of arrays and a header of JSON, with a checksum of both: what state files are, and what runs say of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from macejax.checkpoint.atomic import write_atomically
from macejax.data.structure import DataError
from macejax.model.model import Model
from macejax.simulate.record import FilePath

DAMAGE = (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
ONE, MANY = "macejax_md", "macejax_many"
KINDS = {ONE: "the state of a run of one structure", MANY: "the state of a run of several structures"}


def write_signed(path: FilePath, kind: str, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all; the one before stays until then.

    Raises:
      OSError: the disk refuses.
    """
    tensors = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    digest = _digest(header, save(tensors))
    write_atomically(path, save(tensors, metadata={kind: json.dumps({"header": header, "sha256": digest})}))


def read_signed(path: FilePath, kind: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays, the header's `format` being `version`.

    Raises:
      FileNotFoundError: there is none. DataError: it is damaged, or a file of another kind.
    """
    content = Path(path).read_bytes()
    header = _header(path, content, kind)
    if header.get("format") != version:
        raise DataError(f"{path}: has format {header.get('format')}; this version of macejax reads {version}.")
    return header, load(content)


def load_outputs(path: FilePath) -> dict[str, int]:
    """How many bytes each output file had when a state was saved, of one system (`run_on_device`) or of many (`run_many`).

    Raises:
      FileNotFoundError: there is no such file. DataError: it is damaged, or no state.
    """
    return _header(path, Path(path).read_bytes(), None)["outputs"]


def _header(path: FilePath, content: bytes, kind: str | None) -> dict[str, Any]:
    try:
        length = int.from_bytes(content[:8], "little")
        (found, text), *_ = json.loads(content[8 : 8 + length])["__metadata__"].items()
        signed = json.loads(text)
        whole = _digest(signed["header"], content) == signed["sha256"]
    except DAMAGE as error:
        raise damaged(path, error) from error
    if not whole:
        raise DataError(f"{path}: is damaged: its contents do not agree with their checksum.")
    if kind not in (None, found) or found not in KINDS:
        raise DataError(f"{path}: is {KINDS.get(found, 'no state of a simulation')}, not {KINDS.get(kind, 'such a state')}.")
    return signed["header"]


def digest_of(model: Model) -> str:
    """What a state says of its model."""
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    for leaf in jax.tree.leaves(model.params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def unwritten(what: str, error: OSError, state_file: FilePath | None) -> str:
    """What to say where a disk refuses an output of a run."""
    kept = "" if state_file is None else f" {state_file} holds the state as it was saved last, if it was."
    return f"{what} could not be written, and the run ends here: {error}.{kept}"


def damaged(path: FilePath, error: Exception) -> DataError:
    """What to say of a file that is not what it should be."""
    return DataError(f"{path}: is damaged, or not the state of a simulation ({type(error).__name__}).")


def _digest(header: Mapping[str, Any], content: bytes) -> str:
    """Of the header, and of names, shapes and bytes of the arrays."""
    length = int.from_bytes(content[:8], "little")
    tensors = {name: entry for name, entry in json.loads(content[8 : 8 + length]).items() if name != "__metadata__"}
    return hashlib.sha256(json.dumps([header, tensors], sort_keys=True).encode() + content[8 + length :]).hexdigest()
