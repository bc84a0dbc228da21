"""One writer per run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockError(RuntimeError):
    """Another process writes to this folder."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the file `LOCK` of a folder, so that no second run writes to it.

    The operating system drops the lock when its process ends, however it ends; host and pid in the file are for the reader, and for
    file systems that do not share locks between machines.

    Raises:
      LockError: another process holds it, or a process on another host did and did not let go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "LOCK"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        owner = _owner(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LockError(f"{folder} is being written by {_words(owner)}; stop it first, or choose another run.name.") from None
        if owner.get("host", socket.gethostname()) != socket.gethostname():
            raise LockError(f"{path} was left by {_words(owner)}, on another machine; if that process no longer runs, delete the file.")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)  # the file stays: to delete it would let two processes hold locks on two files of one name
    finally:
        os.close(descriptor)


def _owner(descriptor: int) -> dict[str, object]:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _words(owner: dict[str, object]) -> str:
    return f"process {owner.get('pid', 'unknown')} on host {owner.get('host', 'unknown')}"
