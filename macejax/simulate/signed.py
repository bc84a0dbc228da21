"""Files of arrays and a header of JSON, with a checksum of both: what state files are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from macejax.checkpoint.atomic import write_atomically
from macejax.data.structure import DataError

DAMAGE = (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
FilePath = str | os.PathLike[str]


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
    try:
        length = int.from_bytes(content[:8], "little")
        signed = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][kind])
        header = signed["header"]
        whole = _digest(header, content) == signed["sha256"]
        if not whole:
            raise DataError(f"{path}: is damaged: its contents do not agree with their checksum.")
        if header["format"] != version:
            raise DataError(f"{path}: has format {header['format']}; this version of macejax reads {version}.")
        return header, load(content)
    except DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise damaged(path, error) from error


def damaged(path: FilePath, error: Exception) -> DataError:
    """What to say of a file that is not what it should be."""
    return DataError(f"{path}: is damaged, or not the state of such a simulation ({type(error).__name__}).")


def _digest(header: Mapping[str, Any], content: bytes) -> str:
    """Of the header, and of names, shapes and bytes of the arrays."""
    length = int.from_bytes(content[:8], "little")
    tensors = {name: entry for name, entry in json.loads(content[8 : 8 + length]).items() if name != "__metadata__"}
    return hashlib.sha256(json.dumps([header, tensors], sort_keys=True).encode() + content[8 + length :]).hexdigest()
