"""Edges of a data set in a file that is mapped into memory, not read: of crystals they are three quarters and more of all.

`<folder>/<digest of structures and cutoff>/` holds `edges`, 28 bytes each, one structure after the other, `counts.npy`, how many each
has, and `checksum`, the CRC-32 of both.
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macejax.data.structure import DataError, Structure

FORMAT = 1  # of the files, and of the edges that a structure has
CHUNK = 2**24  # bytes that are checked at a time
PART = ".part"  # end of the name of a folder that is being written
ABANDONED = 3600.0  # s since anything was last written to it
ATTEMPTS = 5


class Edges(NamedTuple):
    """The directed edges of one structure, sorted by receiver, sender and shift (`macejax.data.neighbors`)."""

    receivers: np.ndarray  # [E] int32
    senders: np.ndarray  # [E] int32
    shift: np.ndarray  # [E, 3] int32
    reverse: np.ndarray  # [E] int32, place of the edge (j, i, -shift)
    rank: np.ndarray  # [E] int32, place of the edge in its receiver's row


_RECORD = np.dtype([("receivers", "<i4"), ("senders", "<i4"), ("shift", "<i4", (3,)), ("reverse", "<i4"), ("rank", "<i4")])


def edges_on_disk(folder: str | Path, structures: Sequence[Structure], cutoff: float, find: Callable[[Structure], Edges]) -> list[Edges]:
    """The edges of every structure, views of a file; it is written where the folder has none of these structures with this cutoff.

    Processes may share the folder: each writes under a name of its own, and the first that is ready gives the others its file.

    Args:
      folder: made where there is none.
      structures: of which positions, cell and pbc matter.
      cutoff: Angstrom.
      find: the edges of a structure.

    Raises:
      DataError: the folder cannot be used, or is full.
    """
    path = Path(folder) / _digest(structures, cutoff)
    try:
        _remove_abandoned(path)
        for _ in range(ATTEMPTS):  # another process may take away a file that it found damaged
            found = _read_whole(path, len(structures))
            if found is not None:
                return found
            part = _unique(path)
            part.mkdir(parents=True)
            try:
                _write(part, map(find, structures))
                _give(part, path)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        raise OSError(f"{path} is damaged each time it has been written")
    except OSError as error:
        raise DataError(f"edges cannot be kept in {folder} (data.edge_folder): {error}.") from error


def announce(edges: Iterable[np.ndarray]) -> None:
    """Tell the system which arrays of edges are about to be read: it then fetches those of a file at once, not one page after the other."""
    for own in edges:
        base: Any = own
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and len(own) and hasattr(base, "madvise"):
            start = own.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
            whole = start - start % mmap.PAGESIZE
            base.madvise(mmap.MADV_WILLNEED, whole, start - whole + len(own) * own.strides[0])


def _digest(structures: Sequence[Structure], cutoff: float) -> str:
    found = hashlib.sha256(f"{FORMAT} {float(cutoff)!r}".encode())
    for structure in structures:
        found.update(f" {len(structure.numbers)} ".encode())
        for part, dtype in ((structure.positions, np.float64), (structure.cell, np.float64), (structure.pbc, bool)):
            found.update(np.ascontiguousarray(part, dtype).tobytes())
    return found.hexdigest()[:32]


def _write(folder: Path, edges: Iterable[Edges]) -> None:
    counts, checksum = [], 0
    with (folder / "edges").open("wb") as file:
        for own in edges:
            records = np.empty(len(own.receivers), _RECORD)
            for name, values in own._asdict().items():
                records[name] = values
            data = records.tobytes()
            file.write(data)
            checksum = zlib.crc32(data, checksum)
            counts.append(len(records))
    table = np.array(counts, "<i8")
    np.save(folder / "counts.npy", table)
    (folder / "checksum").write_text(f"{zlib.crc32(table.tobytes(), checksum)}\n")


def _unique(path: Path) -> Path:
    """A name beside `path` that no other process has."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART}")


def _remove_abandoned(path: Path) -> None:
    """What processes left that were killed while they wrote these edges."""
    for part in path.parent.glob(f"{path.name}.*{PART}"):
        with suppress(OSError):  # another process removes it, or gives it its name
            if max(file.stat().st_mtime for file in (part, *part.glob("edges"))) < time.time() - ABANDONED:
                shutil.rmtree(part, ignore_errors=True)


def _give(part: Path, path: Path) -> None:
    """Give a folder its name, unless another process was first."""
    try:
        part.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def _read_whole(path: Path, number: int) -> list[Edges] | None:
    """The edges of so many structures; None where there are none, or damaged ones, which are told and removed."""
    if not path.is_dir():
        return None
    try:
        return _read(path, number)
    except (ValueError, EOFError, FileNotFoundError) as error:
        warnings.warn(f"the edges kept in {path} are damaged ({error}); they are made anew.", stacklevel=3)
    aside = _unique(path)
    with suppress(FileNotFoundError):  # another process was first
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    return None


def _read(path: Path, number: int) -> list[Edges]:
    counts = np.load(path / "counts.npy", allow_pickle=False)
    size = (path / "edges").stat().st_size
    if counts.shape != (number,) or size != counts.sum() * _RECORD.itemsize:
        raise ValueError(f"{size} bytes for {counts.sum()} edges of {counts.size} structures")
    # A view, for slices of a memmap are slow to make; and a file without a byte cannot be mapped.
    records = np.asarray(np.memmap(path / "edges", _RECORD, "r")) if size else np.empty(0, _RECORD)
    checksum, data = 0, records.view(np.uint8)
    for start in range(0, size, CHUNK):
        checksum = zlib.crc32(data[start : start + CHUNK], checksum)
    if (path / "checksum").read_text().strip() != str(zlib.crc32(counts.tobytes(), checksum)):
        raise ValueError("the checksum is another")
    ends = np.cumsum(counts)
    return [_fields(records[end - count : end]) for count, end in zip(counts.tolist(), ends.tolist(), strict=True)]


def _fields(records: np.ndarray) -> Edges:
    return Edges(*(records[name] for name in Edges._fields))
