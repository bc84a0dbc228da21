"""Where a command writes."""

from __future__ import annotations

from pathlib import Path


def require_output(path: Path, overwrite: bool) -> None:
    """Refuse, before anything is read or computed, a file that could not be written at the end.

    Raises:
      ConfigError: the file is there and may not be replaced, or its folder is not there.
    """
    from macejax.config import ConfigError

    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}. Make it first, or choose another name.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already: choose another name, or --overwrite.")
