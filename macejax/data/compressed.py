"""Text files that may be compressed: gzip, bzip2 and xz, by the end of the name."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TextIO

from macejax.data.structure import DataError

MODULES = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # imported where they are needed: Python may have been built without one


def inner_suffix(name: str) -> str:
    """The end of a file's name, in lower case, without that of a compression: ".xyz" of a.XYZ.gz."""
    path = Path(name)
    return Path(path.stem if path.suffix.lower() in MODULES else path.name).suffix.lower()


@contextmanager
def open_text(path: str) -> Iterator[TextIO]:
    """A file of UTF-8 text, compressed or not, to read.

    Raises (while it is read):
      UnicodeDecodeError: it is no such text. DataError: an archive is truncated or damaged.
    """
    name = MODULES.get(Path(path).suffix.lower())
    if name is None:
        with open(path, encoding="utf-8-sig") as file:
            yield file
        return
    module = import_module(name)
    try:
        with module.open(path, "rt", encoding="utf-8-sig") as file:
            yield file
    except EOFError as error:
        raise DataError(f"{path}: the archive is truncated; copy or compress it anew.") from error
    except (OSError, zlib.error, getattr(module, "LZMAError", OSError)) as error:
        raise DataError(f"{path}: the archive is damaged ({error}); copy or compress it anew.") from error
