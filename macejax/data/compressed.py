"""Text files that may be compressed: gzip, bzip2 and xz by the end of the name, read to their last byte.

Python's own readers of bzip2 and xz take damage between two streams for the end of the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from macejax.data.structure import DataError


def _gzip() -> Any:
    import zlib

    return zlib.decompressobj(16 + zlib.MAX_WBITS)  # with the header, length and checksum of a gzip file


def _bzip2() -> Any:
    import bz2  # here, for Python may have been built without it

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma  # as bz2

    return lzma.LZMADecompressor()


DECOMPRESSORS: dict[str, Callable[[], Any]] = {".gz": _gzip, ".bz2": _bzip2, ".xz": _xz}
CHUNK = 1 << 12  # bytes that are decompressed at a time: text a few thousand times as long as its archive fits into memory


def inner_suffix(name: str) -> str:
    """The end of a file's name, in lower case, without that of a compression: ".xyz" of a.XYZ.gz."""
    path = Path(name)
    return Path(path.stem if path.suffix.lower() in DECOMPRESSORS else path.name).suffix.lower()


def open_text(path: str) -> TextIO:
    """A file of UTF-8 text, compressed or not, to read.

    Reading raises UnicodeDecodeError where it is no such text, and DataError where an archive is damaged or truncated.
    """
    make = DECOMPRESSORS.get(Path(path).suffix.lower())
    if make is None:
        return open(path, encoding="utf-8-sig")
    return io.TextIOWrapper(io.BufferedReader(_Decompressed(path, make)), encoding="utf-8-sig")


class _Decompressed(io.RawIOBase):
    """The bytes of an archive of one or more streams, one after the other."""

    def __init__(self, path: str, make: Callable[[], Any]):
        super().__init__()
        self._path, self._make = path, make
        self._file = open(path, "rb")
        self._stream, self._ready = make(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._file.read(CHUNK)
            if not chunk:
                if not self._stream.eof:
                    raise DataError(f"{self._path}: the archive is truncated; copy or compress it anew.")
                return 0
            self._ready = self._decompress(chunk)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decompress(self, chunk: bytes) -> bytes:
        parts = []
        try:
            while chunk:
                if self._stream.eof:
                    chunk = chunk.lstrip(b"\0")  # padding between and after streams
                    if not chunk:
                        break
                    self._stream = self._make()
                parts.append(self._stream.decompress(chunk))
                chunk = self._stream.unused_data
        except Exception as error:  # each library has errors of its own
            raise DataError(f"{self._path}: the archive is damaged ({error}); copy or compress it anew.") from error
        return b"".join(parts)
