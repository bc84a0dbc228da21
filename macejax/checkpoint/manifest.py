"""MANIFEST.json: what a finished checkpoint folder holds, so that one that is damaged or half-written is known as such.

The manifest is written, and flushed to the disk, after every other file of the folder has been; a folder without one was never finished.
It is JSON: `files` (name -> sha256 and size), `info` (whatever the writer adds), `versions`, `format`, and `sha256`, its own digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from macejax.checkpoint.atomic import sync_directory, write_atomically

MANIFEST = "MANIFEST.json"
FORMAT_VERSION = 1
_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]*")


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, half-written or of another run; the message names it."""


def write_manifest(folder: Path, info: Mapping[str, Any]) -> None:
    """Flush every file of `folder` to the disk, then write its manifest.

    Args:
      folder: a checkpoint that is complete but for its manifest.
      info: JSON-able facts to keep beside it, such as the step.

    Raises:
      OSError: the disk refuses; the message names the file.
      CheckpointError: the folder holds a link, or a name that `read_manifest` would refuse.
    """
    files = {}
    for name, path in _listing(folder).items():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    for parent in {folder, *(path for path in folder.rglob("*") if path.is_dir())}:
        sync_directory(parent)
    content = {
        "format": FORMAT_VERSION,
        "versions": {name: version(name) for name in ("jax", "orbax-checkpoint", "numpy")},
        "info": dict(info),
        "files": files,
    }
    content["sha256"] = _digest(content)
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Verify every file of a checkpoint folder against its manifest.

    Returns:
      The manifest's `info`.

    Raises:
      CheckpointError: no manifest, or a file that is missing, changed, of another size, or that nobody wrote; a newer format; a link; the
        disk does not give what it has.
    """
    try:
        return _verified(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}.") from error


def _verified(folder: Path) -> Any:
    content = _load(folder)
    present = _listing(folder)
    for name, entry in content["files"].items():
        if not all(_PART.fullmatch(part) for part in name.split("/")):
            raise CheckpointError(f"{folder / MANIFEST} names a file {name!r}, which is no name that a checkpoint has.")
        if name not in present:
            raise CheckpointError(f"{folder / name} is missing.")
        size = present[name].stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{folder / name} has {size} bytes instead of {entry['bytes']}.")
        if _sha256(present[name]) != entry["sha256"]:
            raise CheckpointError(f"{folder / name} is damaged: its content does not match its checksum.")
    if strangers := present.keys() - content["files"].keys():
        raise CheckpointError(f"{folder / min(strangers)} does not belong to the checkpoint.")
    return content["info"]


def _load(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{folder} has no {MANIFEST}: writing it was interrupted.")
    try:
        content = json.loads(path.read_bytes())
        written = content["format"]
        if written > FORMAT_VERSION:
            raise CheckpointError(
                f"{folder} has format {written}; this macejax reads up to format {FORMAT_VERSION}. Please upgrade macejax."
            )
        if content.pop("sha256") != _digest(content):
            raise CheckpointError(f"{path} is damaged: it does not match its checksum.")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: it cannot be read.") from error
    return content


def _listing(folder: Path) -> dict[str, Path]:
    """All files below a folder by their relative names, without the manifest; links are refused, for they lead out of it."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} is neither a file nor a folder: a checkpoint holds no links.")
        if path.is_file() and name != MANIFEST:
            files[name] = path
    return files


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
