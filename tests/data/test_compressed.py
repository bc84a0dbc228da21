"""Compressed extended XYZ is read as strictly as any, and an archive that is not whole is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from macejax.data.compressed import MODULES, inner_suffix
from macejax.data.read import read
from macejax.data.structure import DataError
from macejax.data.write import write
from tests.data.test_extxyz import GOOD, REFUSED
from tests.structures import labelled

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
each = pytest.mark.parametrize("suffix", MODULES)


def archive(folder: Path, suffix: str, content: bytes) -> Path:
    path = folder / f"a.xyz{suffix}"
    path.write_bytes(content)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> bytes:
    """Some 60 kB that do not compress well."""
    write(tmp_path / "plain.xyz", [labelled("triclinic22")] * 2 + [labelled("silicon8")] * 30)
    return (tmp_path / "plain.xyz").read_bytes()


@each
def test_the_same_as_uncompressed(suffix: str, plain: bytes, tmp_path: Path) -> None:
    """In one stream or in several."""
    expected = read(tmp_path / "plain.xyz")
    cut = plain.index(b"\n", 1000) + 1
    compress = COMPRESS[suffix]
    for content in (compress(plain), compress(plain[:cut]) + compress(plain[cut:])):
        found = read(archive(tmp_path, suffix, content))
        assert len(found) == len(expected) == 32
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.energy == theirs.energy and np.array_equal(ours.positions, theirs.positions)
            assert np.array_equal(ours.forces, theirs.forces)
    assert found[1].source == f"{tmp_path}/a.xyz{suffix}:frame 1"


@pytest.mark.filterwarnings("ignore:.*the last line of the file has no end")
@each
@pytest.mark.parametrize("case", ["energy twice", "second frame truncated", "truncated in a line", "column twice", "blank"])
def test_what_is_refused_uncompressed_is_refused(suffix: str, case: str, tmp_path: Path) -> None:
    text, reason = REFUSED[case]
    with pytest.raises(DataError, match=reason):
        read(archive(tmp_path, suffix, COMPRESS[suffix](text.encode())))


def test_empty_line_between_frames_loses_nothing(tmp_path: Path) -> None:
    assert len(read(archive(tmp_path, ".gz", gzip.compress((GOOD + "\n" + GOOD).encode())))) == 2


@each
def test_truncated_anywhere_or_damaged_anywhere(suffix: str, plain: bytes, tmp_path: Path) -> None:
    """Cut at 40 places; a byte changed at 40 places beyond the header, of which gzip's holds a date that is nobody's."""
    whole = COMPRESS[suffix](plain)
    random = np.random.default_rng(0)
    for place in [*random.integers(1, len(whole), size=38), len(whole) - 1, 1]:
        with pytest.raises(DataError, match=f"a.xyz{suffix}: the archive is (truncated|damaged)") as error:
            read(archive(tmp_path, suffix, whole[:place]))
        assert "\n" not in str(error.value)
    for place in random.integers(10, len(whole), size=40):
        content = bytearray(whole + whole)
        content[place] ^= 0x55
        with pytest.raises(DataError, match=f"a.xyz{suffix}:"):
            read(archive(tmp_path, suffix, bytes(content)))


@each
def test_not_an_archive(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the archive is damaged"):
        read(archive(tmp_path, suffix, GOOD.encode()))
    with pytest.raises(DataError, match="the file is empty"):
        read(archive(tmp_path, suffix, b""))
    with pytest.raises(DataError, match="is not text"):
        read(archive(tmp_path, suffix, COMPRESS[suffix](b"2\n\xff\xfe\x00")))


def test_names() -> None:
    names = {"a.xyz": ".xyz", "b.XYZ.GZ": ".xyz", "c.tar.extxyz.xz": ".extxyz", "d.gz": "", "e.traj": ".traj", "folder.xyz/f": ""}
    assert {name: inner_suffix(name) for name in names} == names
