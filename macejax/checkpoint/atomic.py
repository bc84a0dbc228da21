"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `path` so that a crash or a full disk leaves either the old file or the new one, never a mixture.

    A temporary file in the same folder is written, flushed to the disk and renamed; then the folder is flushed, for the rename is an entry
    in it.

    Raises:
      OSError: the file cannot be written; `path` is then untouched, and the message names it and the number of bytes.
    """
    path = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only the owner may read
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, f"could not write {len(content)} bytes to {path}: {os.strerror(error.errno or 0)}") from error
    sync_directory(path.parent)


def sync_directory(path: str | os.PathLike) -> None:
    """Flush the entries of a folder (new and renamed files) to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
