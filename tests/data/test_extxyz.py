"""The strict reader of extended XYZ: the same as ASE's where ASE's is right, a sentence where the file is not."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.io.extxyz import key_val_str_to_dict

from macejax.data.extxyz import parse_comment
from macejax.data.read import read
from macejax.data.structure import DataError
from tests import structures as zoo

GOOD = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.5 REF_stress="1 2 3 4 5 6" pbc="T T T"
Si 0.0 0.0 0.0 0.1 0.2 0.3
Si 1.0 1.0 1.0 -0.1 -0.2 -0.3
"""


def write_text(folder: Path, text: str) -> str:
    path = folder / "a.xyz"
    path.write_text(text, encoding="utf-8")
    return str(path)


COMMENTS = [
    "a=1 b=2.5 c=text",
    "a = 1 b= 2",
    'Lattice="1 0 0 0 1 0 0 0 1" pbc="T F T"',
    "a='single quotes' b={1 2 3} c=[4, 5, 6] d=\"1.0 2.0\"",
    r'a="with \"quotes\" inside" b=x',
    r'Comp=DMC(4) description="Snapshot 7 of 32" flag other=3',
    'dihedrals="_JSON [209.44, 80.54]" url=http://x?a=b',
    'nested="_JSON [[1, 2], [3, 4]]" e=-1.5e-3',
    "Properties=species:S:1:pos:R:3 energy=-4209.88 ",
]


@pytest.mark.parametrize("line", COMMENTS)
def test_comment_line_as_ase_reads_it(line: str) -> None:
    ours, theirs = parse_comment(line, ""), key_val_str_to_dict(line)
    assert list(ours) == list(theirs)
    for key, text in ours.items():
        np.testing.assert_array_equal(np.asarray(key_val_str_to_dict(f'{key}="{text}"' if '"' not in text else line)[key]), theirs[key])


def test_comment_of_a_plain_xyz_file() -> None:
    assert parse_comment("Bob's molecule", "") == {}
    assert parse_comment("Bob's molecule, E=3", "") == {}
    with pytest.raises(DataError, match="is a quote not closed"):
        parse_comment("REF_energy=-3.5 by Bob's friend", "")  # no label is lost in silence


@pytest.mark.filterwarnings("ignore:Skipping unhashable information")
@pytest.mark.parametrize("name", ["ethanol", "slab", "triclinic22", "rhombohedral", "nanotube", "salt"])
def test_frames_written_by_ase(name: str, tmp_path: Path) -> None:
    path = tmp_path / "b.extxyz"
    image = zoo.atoms(name)
    image.info |= {"REF_energy": -3.25, "REF_stress": np.diag([1.0, 2, 3]), "config_type": "x y"} if image.pbc.all() else {"REF_energy": 1}
    image.arrays["REF_forces"] = np.random.default_rng(0).normal(size=(len(image), 3))
    ase.io.write(path, [image, image])
    for structure, back in zip(read(path), ase.io.read(path, ":"), strict=True):
        np.testing.assert_array_equal(structure.numbers, back.numbers)
        np.testing.assert_array_equal(structure.positions, back.positions)
        np.testing.assert_array_equal(structure.cell, np.asarray(back.cell))
        np.testing.assert_array_equal(structure.pbc, back.pbc)
        np.testing.assert_array_equal(structure.forces, back.arrays["REF_forces"])
        assert structure.energy == back.info["REF_energy"]
        assert structure.config_type == back.info.get("config_type", "Default")


def test_what_the_good_file_says(tmp_path: Path) -> None:
    (structure,) = read(write_text(tmp_path, GOOD))
    assert structure.energy == -1.5
    np.testing.assert_array_equal(structure.stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    np.testing.assert_array_equal(structure.forces[1], [-0.1, -0.2, -0.3])
    assert structure.source == f"{tmp_path / 'a.xyz'}:frame 0"


@pytest.mark.parametrize(
    "text",
    [GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD + "\n\n", GOOD.replace("Si ", "SI "), GOOD.replace(" ", "  ")],
    ids=["CRLF", "byte order mark", "empty lines at the end", "symbol in capitals", "wide spaces"],
)
def test_harmless_variations(text: str, tmp_path: Path) -> None:
    (structure,) = read(write_text(tmp_path, text))
    assert structure.energy == -1.5 and structure.numbers.tolist() == [14, 14]


def test_last_line_without_end_may_be_truncated(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a.xyz:frame 0: the last line of the file has no end"):
        (structure,) = read(write_text(tmp_path, GOOD.rstrip("\n")))
    assert structure.energy == -1.5


def test_lattice_without_pbc_is_periodic(tmp_path: Path) -> None:
    assert read(write_text(tmp_path, GOOD.replace(' pbc="T T T"', "")))[0].pbc.all()


def test_plain_xyz_file(tmp_path: Path) -> None:
    """No Properties: symbol and position, whatever may follow them."""
    (structure,) = read(write_text(tmp_path, "2\nE = -5 [see below\nC 0 0 0 0.5 x\nO 0 0 1.1 -0.5 y\n"), need_labels=False)
    assert structure.numbers.tolist() == [6, 8] and structure.positions[1, 2] == 1.1 and not structure.pbc.any()


def test_empty_line_between_frames_loses_nothing(tmp_path: Path) -> None:
    """ASE stops at it in silence."""
    assert len(read(write_text(tmp_path, GOOD + "\n" + GOOD))) == 2


def test_atomic_numbers_instead_of_symbols(tmp_path: Path) -> None:
    text = GOOD.replace("species:S:1", "Z:I:1").replace("Si ", "14 ")
    assert read(write_text(tmp_path, text))[0].numbers.tolist() == [14, 14]


REFUSED = {
    "empty": ("", "the file is empty"),
    "blank": ("\n \n", "holds no structure"),
    "no number of atoms": ("Si 0 0 0\n", "frame 0 .line 1.: expected the number of atoms, found 'Si 0 0 0'"),
    "zero atoms": ("0\n\n", "expected the number of atoms"),
    "negative number of atoms": ("-2\n\n", "expected the number of atoms"),
    "a trillion atoms": ("1000000000000\n\nSi 0 0 0\n", "ends after 1 of 1000000000000 atoms; it is truncated"),
    "number of 20 digits": ("9" * 20 + "\n\nSi 0 0 0\n", "expected the number of atoms"),
    "truncated after a line": (GOOD[: GOOD.rindex("Si")], "frame 0: the file ends after 1 of 2 atoms; it is truncated"),
    "truncated in a line": (GOOD[: GOOD.rindex("-0.3")], "line 4.: 6 columns instead of 7"),
    "second frame truncated": (GOOD + GOOD[:40], "frame 1: the file ends after 0 of 2 atoms"),
    "too many columns": (GOOD.replace("0.3\n", "0.3 9\n", 1), "line 3.: 8 columns instead of 7"),
    "a word for a position": (GOOD.replace("1.0 1.0 1.0", "1.0 one 1.0"), "column 'pos' holds 'one', which is not a number"),
    "NaN position": (GOOD.replace("1.0 1.0 1.0", "1.0 nan 1.0"), "positions holds nan"),
    "overflowing position": (GOOD.replace("1.0 1.0 1.0", "1.0 1e400 1.0"), "positions holds inf"),
    "unknown element": (GOOD.replace("Si 1", "Xx 1"), "'Xx' is no element"),
    "dummy element": (GOOD.replace("Si 1", "X 1"), "'X' is no element"),
    "Z too large": (GOOD.replace("species:S:1", "Z:I:1").replace("Si ", "119 "), "atomic number 119"),
    "fractional Z": (GOOD.replace("species:S:1", "Z:I:1").replace("Si ", "1.5 "), "integers"),
    "energy in words": (GOOD.replace("-1.5", "low"), "REF_energy is 'low', which is not a number"),
    "energy without value": (GOOD.replace("REF_energy=-1.5", "REF_energy"), "REF_energy is 'T', which is not a number"),
    "two energies": (GOOD.replace("REF_energy=-1.5", 'REF_energy="1 2"'), "REF_energy is '1 2', but must be one number"),
    "infinite energy": (GOOD.replace("-1.5", "inf"), "energy is infinite"),
    "infinite force": (GOOD.replace("-0.3", "-inf"), "forces is infinite"),
    "energy twice": (GOOD.replace("REF_energy=-1.5", "REF_energy=-1.5 REF_energy=2"), "'REF_energy' twice, with different values"),
    "column twice": (GOOD.replace("REF_forces:R:3", "pos:R:3"), "Properties names 'pos' twice"),
    "broken Properties": (GOOD.replace("REF_forces:R:3", "REF_forces:R"), "name:kind:columns"),
    "Properties of unknown kind": (GOOD.replace("REF_forces:R:3", "REF_forces:Q:3"), "REF_forces:Q:3"),
    "no positions": (GOOD.replace("pos:R:3", "place:R:3"), "no pos:R:3"),
    "no species": (GOOD.replace("species:S:1", "kind:S:1"), "neither species:S:1 nor Z:I:1"),
    "forces of two components": (GOOD.replace("REF_forces:R:3", "REF_forces:R:2:x:R:1"), "forces has shape"),
    "lattice of eight numbers": (GOOD.replace("4 0 0 0 4 0 0 0 4", "4 0 0 0 4 0 0 0"), "Lattice is .* not nine numbers"),
    "flat lattice": (GOOD.replace("4 0 0 0 4 0 0 0 4", "4 0 0 0 4 0 4 4 0"), "no volume along"),
    "pbc of two": (GOOD.replace('pbc="T T T"', 'pbc="T T"'), "pbc is 'T T', which is not three"),
    "stress of five numbers": (GOOD.replace("1 2 3 4 5 6", "1 2 3 4 5"), "REF_stress has 5 numbers"),
    "open quote": (GOOD.replace('6" pbc', "6 pbc"), "cannot be read|is a quote not closed|twice|not three"),
    "energy as a column": (GOOD.replace("REF_forces:R:3 REF_energy=-1.5", "x:R:2:REF_energy:R:1"), "should be one value of the frame"),
    "forces as one value": (GOOD.replace("REF_forces:R:3", 'x:R:3 REF_forces="1 2 3"'), "should be a column of every atom"),
}


@pytest.mark.filterwarnings("ignore:.*the last line of the file has no end")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    text, reason = REFUSED[case]
    with pytest.raises(DataError, match=reason) as error:
        read(write_text(tmp_path, text))
    assert str(error.value).startswith(str(tmp_path / "a.xyz"))
    assert "\n" not in str(error.value)


def test_equal_duplicates_do_not_contradict(tmp_path: Path) -> None:
    assert read(write_text(tmp_path, GOOD.replace("REF_energy=-1.5", "REF_energy=-1.5 REF_energy=-1.5")))[0].energy == -1.5


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_bytes(b"2\n\xff\xfe\x00")
    with pytest.raises(DataError, match="is not text"):
        read(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path / "none.xyz")
    with pytest.raises(DataError, match="is not a file"):
        read(tmp_path)
