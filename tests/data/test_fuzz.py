"""Damaged files: whatever is wrong with an extended XYZ file, the answer is structures or a DataError, soon."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from macejax.data.graph import build_graph
from macejax.data.read import read
from macejax.data.structure import DataError
from macejax.data.write import write
from tests import structures as zoo

MUTATIONS = 300
JUNK = [
    "nan",
    "-inf",
    "1e400",
    "1_0",
    "0x10",
    "",
    "=",
    '"',
    "'",
    "{",
    "[[",
    "]",
    "\\",
    "T",
    "9" * 30,
    "-1",
    "Xx",
    "\x00",
    "é",
    "\t",
    "\n",
    "\r\n",
]
WORDS = ["Lattice", "Properties", "pbc", "REF_energy", "REF_stress", "REF_forces", "species:S:1", "pos:R:3", "Si"]


def original(folder: Path) -> bytes:
    path = folder / "good.xyz"
    frames = [zoo.labelled("silicon2"), zoo.labelled("water")._replace(charges=np.arange(3.0)), zoo.labelled("needle")]
    write(path, frames, info=[{"text": "it's {x}", "list": [1, 2, 3]}] * 3)
    return path.read_bytes()


def mutated(text: bytes, rng: np.random.Generator) -> bytes:
    """One to three of: cut, drop, double, flip a byte, put junk somewhere, replace or rename a word, swap lines."""
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(9)
        place = int(rng.integers(len(text) + 1))
        length = int(rng.integers(1, 40))
        lines = text.split(b"\n")
        line = int(rng.integers(len(lines)))
        words = lines[line].split(b" ")
        word = int(rng.integers(len(words)))
        junk = JUNK[rng.integers(len(JUNK))].encode()
        if kind == 0:
            text = text[:place]
        elif kind == 1:
            text = text[:place] + text[place + length :]
        elif kind == 2:
            text = text[:place] + text[place : place + length] + text[place:]
        elif kind == 3 and place < len(text):
            text = text[:place] + bytes([text[place] ^ 1 << int(rng.integers(8))]) + text[place + 1 :]
        elif kind == 4:
            text = text[:place] + junk + text[place:]
        elif kind == 5:
            words[word] = junk
            lines[line] = b" ".join(words)
            text = b"\n".join(lines)
        elif kind == 6:
            old = WORDS[rng.integers(len(WORDS))].encode()
            text = text.replace(old, WORDS[rng.integers(len(WORDS))].encode(), int(rng.integers(1, 4)))
        elif kind == 7:
            lines.insert(int(rng.integers(len(lines))), lines.pop(line))
            text = b"\n".join(lines)
        else:
            del lines[line]
            text = b"\n".join(lines)
    return text


def test_only_data_errors(tmp_path: Path) -> None:
    good = original(tmp_path)
    path = tmp_path / "bad.xyz"
    refused = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutated(good, np.random.default_rng(seed)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # keys that are not used
                structures = read(path)
            for structure in structures:
                assert np.isfinite(structure.positions).all()
                build_graph(structure, zoo.ELEMENTS, zoo.CUTOFF)
        except DataError as error:
            refused += 1
            message = str(error)
            assert "bad.xyz" in message and "\n" not in message and len(message) < 2000, (seed, message)
    assert 0.5 * MUTATIONS < refused < MUTATIONS  # most damage is seen, and the harness does not only make rubbish
