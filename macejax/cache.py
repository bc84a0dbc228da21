"""Compiled programs: the cache of them on disk, from where one that was compiled once starts in seconds, and how many a run needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_COMPILED = "/jax/core/compile/backend_compile_duration"  # what jax tells of every program, one that the cache on disk had included


class Compilation(NamedTuple):
    """A program that jax made ready to run."""

    name: str  # as jax has it: "jit(evaluate)" of a function `evaluate`
    seconds: float  # of compilation, or of reading from the cache on disk


@contextmanager
def compilations() -> Iterator[list[Compilation]]:
    """A list that grows with every program that jax compiles within, in this process, for whatever shapes and whoever calls.

    The programs of the model are few and take seconds; beside them jax has many small ones, for single operations outside jit. What runs
    again compiles nothing: a list that goes on growing is a sign of shapes that go on changing.
    """
    import jax

    found: list[Compilation] = []

    def listen(event: str, seconds: float, **facts: object) -> None:
        if event == _COMPILED:
            found.append(Compilation(str(facts.get("fun_name", "")), seconds))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def enable_cache(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs on disk, for this and later processes; call it before anything is computed.

    Args:
      folder: where; by default JAX_COMPILATION_CACHE_DIR, else `macejax/jax` in the user's cache folder (XDG_CACHE_HOME or ~/.cache). It is
        made with access for its owner alone (0700), for who can write to it can make you run what they like.

    Returns:
      The folder; None where JAX_COMPILATION_CACHE_DIR is set and empty, which switches the cache off.

    Raises:
      OSError: the folder cannot be made.
      PermissionError: it can be written by others.
    """
    import jax

    if folder is None:
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        if folder == "":
            return None
    if folder is None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "macejax" / "jax"
    path = Path(folder)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix" and path.stat().st_mode & 0o022:
        raise PermissionError(
            f"compiled programs are not kept in {path}, into which other users may write: run `chmod 700` on it, or choose another folder."
        )
    jax.config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return path
