"""Extended XYZ, read strictly: what ASE's reader would drop or overlook in silence is an error here.

ASE stops at an empty line, ignores columns that `Properties` does not name, lets the second of two equal keys win and cannot read a stress
in Voigt form. On files without such faults both read the same.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import TextIO

import numpy as np

from macejax.data.compressed import open_text
from macejax.data.labels import Frame
from macejax.data.species import NUMBERS
from macejax.data.structure import DataError

_PIECE = r"""(?:\\.|"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|\{[^{}]*+\}|\[(?:[^\[\]]|\[[^\[\]]*+\])*+\]|[^\s="'\\\[{])"""
_ENTRY = re.compile(rf"\s*({_PIECE}++)(?:\s*=\s*((?:{_PIECE}|=)*+))?\s*")
_QUOTED = re.compile(rf"{_PIECE}|=")
_EXTENDED = re.compile(r"(Properties|Lattice|pbc|config_type|energy\w*)\s*=", re.IGNORECASE)
_TRUTH = {"T": True, "F": False, "TRUE": True, "FALSE": False, "1": True, "0": False}
_PLAIN = "species:S:1:pos:R:3"


def read_extxyz(path: str) -> Iterator[Frame]:
    """Frames of an extended (or plain) XYZ file, compressed or not, one after the other. Values of the comment line stay text.

    Raises:
      DataError: anything that is not right, with the file, frame (counted from 0) and line.
    """
    try:
        with open_text(path) as file:
            yield from _frames(file, path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not text; an extended XYZ file is UTF-8 text.") from None


def parse_comment(line: str, source: str) -> dict[str, str]:
    """key=value pairs of a comment line; values may be in quotes, braces or brackets. A key without a value is "T"."""
    if "=" not in line:
        return {}
    info: dict[str, str] = {}
    position, end = 0, len(line)
    while position < end:
        match = _ENTRY.match(line, position)
        if match is None or match.end() == position:
            if not _EXTENDED.search(line):
                return {}  # prose of a plain XYZ file
            raise DataError(f"{source}: the comment line cannot be read from {line[position : position + 30]!r} on; is a quote not closed?")
        key, value = _unquote(match[1]), "T" if match[2] is None else _unquote(match[2])
        if info.get(key, value) != value:
            raise DataError(f"{source}: the comment line gives {key!r} twice, with different values.")
        info[key] = value
        position = match.end()
    return info


def _frames(file: TextIO, path: str) -> Iterator[Frame]:
    line_number = 0
    count = 0
    for line in file:
        line_number += 1
        if not line.strip():
            continue
        source = f"{path}:frame {count}"
        num_atoms = _num_atoms(line, f"{source} (line {line_number})")
        lines = list(islice(file, num_atoms + 1))
        if len(lines) < num_atoms + 1:
            raise DataError(f"{source}: the file ends after {max(len(lines) - 1, 0)} of {num_atoms} atoms; it is truncated.")
        if not lines[-1].endswith("\n"):
            warnings.warn(
                f"{source}: the last line of the file has no end; if the file is truncated, its last number is wrong.", stacklevel=4
            )
        yield _frame(lines[0].strip(), lines[1:], source, line_number + 2)
        line_number += num_atoms + 1
        count += 1


def _num_atoms(line: str, where: str) -> int:
    text = line.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) == 0:
        raise DataError(f"{where}: expected the number of atoms, found {text[:40]!r}.")
    return int(text)


def _frame(comment: str, lines: list[str], source: str, first_line: int) -> Frame:
    info = parse_comment(comment, source)
    columns = _columns(info.get("Properties", _PLAIN), source)
    width = sum(count for _, count in columns.values())
    words = [line.split() for line in lines]
    if info.pop("Properties", None) is None:
        words = [row[:width] for row in words]  # a plain XYZ file may have further columns, which nobody can name
    for number, row in enumerate(words):
        if len(row) != width:
            raise DataError(f"{source} (line {first_line + number}): {len(row)} columns instead of {width}; is the file truncated?")
    table = np.array(words)
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for name, (kind, count) in columns.items():
        arrays[name] = _column(table[:, start : start + count], kind, name, source)
        start += count
    numbers = _atomic_numbers(arrays, source)
    positions = arrays.pop("pos", None)
    if positions is None or positions.shape != (len(lines), 3):
        raise DataError(f"{source}: Properties has no pos:R:3.")
    cell, pbc = _lattice(info, source)
    return Frame(numbers, positions, cell, pbc, info, arrays, source)


def _columns(text: str, source: str) -> dict[str, tuple[str, int]]:
    """Name -> (kind, number of columns), from "species:S:1:pos:R:3"."""
    fields = text.split(":")
    columns: dict[str, tuple[str, int]] = {}
    for name, kind, count in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        if (
            not name
            or kind not in ("S", "R", "I", "L")
            or not (count.isascii() and count.isdigit() and 0 < int(count[:6]) and len(count) < 6)
        ):
            raise DataError(f"{source}: Properties has {name}:{kind}:{count}; an entry is name:kind:columns with kind S, R, I or L.")
        if name in columns:
            raise DataError(f"{source}: Properties names {name!r} twice.")
        columns[name] = (kind, int(count))
    if len(fields) % 3 or not columns:
        raise DataError(f"{source}: Properties is {text[:60]!r}, which is not name:kind:columns, repeated.")
    return columns


def _column(words: np.ndarray, kind: str, name: str, source: str) -> np.ndarray:
    if kind in ("R", "I"):
        try:
            values = words.astype(np.float64)
        except ValueError:
            raise DataError(f"{source}: column {name!r} holds {_not_a_number(words)!r}, which is not a number.") from None
        if kind == "I" and np.isfinite(values).all() and (np.abs(values) < 1e6).all() and (values % 1 == 0).all():
            values = values.astype(np.int64)
    elif kind == "L" and np.isin(words, ("T", "F")).all():
        values = words == "T"
    else:
        values = words
    return values[:, 0] if values.shape[1] == 1 else values


def _not_a_number(words: np.ndarray) -> str:
    for word in words.flat:
        try:
            float(word)
        except ValueError:
            return str(word)[:40]
    return "something"


def _atomic_numbers(arrays: dict[str, np.ndarray], source: str) -> np.ndarray:
    numbers, symbols = arrays.pop("Z", None), arrays.pop("species", None)
    if symbols is not None and symbols.ndim == 1 and symbols.dtype.kind == "U":
        known = {symbol: NUMBERS.get(symbol.capitalize(), 0) for symbol in np.unique(symbols).tolist()}
        if unknown := [symbol for symbol, number in known.items() if number == 0]:
            raise DataError(f"{source}: {unknown[0]!r} is no element.")
        return np.array([known[symbol] for symbol in symbols.tolist()])
    if numbers is None:
        raise DataError(f"{source}: Properties has neither species:S:1 nor Z:I:1.")
    return numbers


def _lattice(info: dict[str, str], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Cell and pbc; as in ASE, a frame with a lattice is periodic unless it says otherwise, one without is not."""
    lattice, pbc = info.pop("Lattice", None), info.pop("pbc", None)
    cell = np.zeros((3, 3))
    if lattice is not None:
        try:
            cell = np.array([float(word) for word in lattice.replace(",", " ").split()]).reshape(3, 3)
        except ValueError:
            raise DataError(f"{source}: Lattice is {lattice[:80]!r}, which is not nine numbers.") from None
    if pbc is None:
        return cell, np.full(3, lattice is not None)
    words = pbc.replace(",", " ").upper().split()
    if len(words) != 3 or not all(word in _TRUTH for word in words):
        raise DataError(f"{source}: pbc is {pbc[:40]!r}, which is not three of T and F.")
    return cell, np.array([_TRUTH[word] for word in words])


def _unquote(text: str) -> str:
    """Text without its outer quotes, braces or brackets and without escapes."""
    if not any(mark in text for mark in "\"'{[\\"):
        return text
    pieces = []
    for piece in _QUOTED.findall(text):
        if piece[0] == "\\":
            pieces.append(piece[1:])
        elif piece[0] in "\"'":
            pieces.append(re.sub(r"\\(.)", r"\1", piece[1:-1]))
        else:
            pieces.append(piece[1:-1] if piece[0] in "{[" else piece)
    return "".join(pieces)
