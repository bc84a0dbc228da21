"""Extended XYZ out and in again, with every digit."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from macejax.data.labels import Keys
from macejax.data.read import read, read_frames
from macejax.data.structure import DataError, Structure
from macejax.data.write import write
from tests import structures as zoo


def test_round_trip_of_the_whole_zoo_is_exact(tmp_path: Path) -> None:
    before = [zoo.labelled(name)._replace(config_type="a 'b' \"c\"", weights={"energy": 0.1}) for name in zoo.ZOO]
    write(tmp_path / "a.xyz", before)
    after = read(tmp_path / "a.xyz")
    for one, other in zip(before, after, strict=True):
        for field in Structure._fields:
            if field not in ("source", "weights"):
                np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=f"{one.source} {field}")
        assert other.weights == {"energy": 0.1}


def test_virials_without_volume_round_trip(tmp_path: Path) -> None:
    molecule = zoo.labelled("water")._replace(virials=np.diag([1.0, 2, 3]), dipole=np.array([0.1, 0.2, 0.3]), charges=np.arange(3.0))
    write(tmp_path / "a.xyz", [molecule])
    (back,) = read(tmp_path / "a.xyz")
    for field in ("virials", "dipole", "charges"):
        np.testing.assert_array_equal(getattr(back, field), getattr(molecule, field))


def test_ase_reads_the_same(tmp_path: Path) -> None:
    structure = zoo.labelled("triclinic22")
    write(tmp_path / "a.xyz", [structure], info=[{"model energy": 1.25, "text": "it's {x}"}], arrays=[{"model_forces": np.ones((22, 3))}])
    image = ase.io.read(tmp_path / "a.xyz")
    np.testing.assert_array_equal(image.positions, structure.positions)
    np.testing.assert_array_equal(np.asarray(image.cell), structure.cell)
    np.testing.assert_array_equal(image.arrays["REF_forces"], structure.forces)
    np.testing.assert_array_equal(image.arrays["model_forces"], 1.0)
    assert image.info["REF_energy"] == structure.energy
    assert image.info["text"] == "it's {x}"
    assert image.info["model energy"] == 1.25


def rich(calculated: bool = True) -> Atoms:
    """A crystal of which much is said that macejax does not read."""
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info = {"note": 'it\'s  "x" \\ [y]', "number": 3, "row": [1.5, 2.0], "table": np.arange(6.0).reshape(2, 3), "words": ["a", "b c"]}
    atoms.info |= {"truth": True, "nothing": "", "more": {"a": [1, 2]}, "config_type": "a  b", "config_energy_weight": 0.5, "head": "pbe"}
    atoms.arrays |= {
        "tags": np.array([3, 4]),
        "mask": np.array([True, False]),
        "pair": np.arange(4.0).reshape(2, 2),
        "name": np.array(["a", "b"]),
    }
    if calculated:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.ones((2, 3)), stress=np.arange(6.0))
    return atoms


@pytest.mark.filterwarnings("ignore:.*are read without that label")
def test_frames_are_written_as_they_were_read(tmp_path: Path) -> None:
    """Whoever reads the copy, macejax or ASE, finds what the file said."""
    plain = "2\nflag k={1 2 3} REF_stress=[[1,0,0],[0,2,0],[0,0,3]] x=1e3 REF_energy=-2.5 pbc=TTT\n".replace("TTT", '"T F T"')
    plain = plain.replace("flag", 'Properties=species:S:1:pos:R:3:charge:R:1:move_mask:L:1 Lattice="4 0 0 0 4 0 0 0 4" flag')
    ase.io.write(tmp_path / "a.xyz", [rich(), rich()], format="extxyz")
    with open(tmp_path / "a.xyz", "a") as file:
        file.write(f"{plain}H 0 0 0 0.5 T\nO 1 1 1 -0.5 F\n")
    frames = read_frames(tmp_path / "a.xyz")
    write(tmp_path / "b.xyz", frames, info=[{"MACE_energy": float(n)} for n in range(3)], arrays=[{"MACE_forces": np.zeros((2, 3))}] * 3)
    before, after = (ase.io.read(tmp_path / name, ":") for name in ("a.xyz", "b.xyz"))
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        assert other.info.pop("MACE_energy") == number and not other.arrays.pop("MACE_forces").any()
        one.info.pop("REF_stress", None), other.info.pop("REF_stress", None)  # in brackets, which ASE does not understand
        assert repr(one.info) == repr(other.info) and one.arrays.keys() == other.arrays.keys()
        for name, array in one.arrays.items():
            assert array.dtype == other.arrays[name].dtype and np.array_equal(array, other.arrays[name]), name
        assert (one.calc is None) == (other.calc is None) and (one.calc is None or one.calc.results.keys() == other.calc.results.keys())
    for keys in (Keys(charges="charges"), Keys(energy="x")):
        for one, other in zip(*(read(tmp_path / name, keys) for name in ("a.xyz", "b.xyz")), strict=True):
            for field in Structure._fields:
                if field not in ("source", "weights"):
                    np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
            assert one.weights == other.weights


@pytest.mark.parametrize("name", ["a.traj", "a.json", "a.cif", "a.vasp", "a.pdb", "a.xyz.gz"])
def test_frames_of_other_formats_too(tmp_path: Path, name: str) -> None:
    ase.io.write(
        tmp_path / name, [rich(), rich()] if name.endswith((".traj", ".gz")) else rich(), **({"format": "extxyz"} if "xyz" in name else {})
    )
    frames = read_frames(tmp_path / name)
    write(tmp_path / "b.xyz", frames)
    copies = read_frames(tmp_path / "b.xyz")
    for frame, copy in zip(frames, copies, strict=True):
        assert copy.info.keys() == frame.info.keys() and copy.arrays.keys() == frame.arrays.keys()
    for one, other in zip(*(read(tmp_path / file, need_labels=False) for file in (name, "b.xyz")), strict=True):
        for field in Structure._fields:
            if field not in ("source", "weights"):
                np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


def test_values_that_have_no_form_in_a_line_are_written_as_text(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz", Atoms("H"))
    (frame,) = read_frames(tmp_path / "a.xyz")
    info = {"none": None, "ragged": [[1], [1, 2]], "keys": {(1, 2): 3}, "lines": "a\nb", "kind": Keys}
    arrays = {"two words": np.array(["a b"]), "x:y": np.array([""]), "cube": np.ones((1, 2, 2))}
    write(tmp_path / "b.xyz", [frame._replace(info=info, arrays=arrays)])
    (copy,) = read_frames(tmp_path / "b.xyz")
    assert copy.info == {"ragged": "[[1], [1, 2]]", "keys": "{(1, 2): 3}", "lines": "a b", "kind": str(Keys)}
    assert copy.arrays["two words"] == ["a_b"] and copy.arrays["x_y"] == ["_"] and copy.arrays["cube"].shape == (1, 4)


def test_atoms_and_other_keys(tmp_path: Path) -> None:
    image = zoo.atoms("water")
    image.info["dft"] = -5.0
    write(tmp_path / "a.xyz", [image], Keys(energy="dft"))
    assert read(tmp_path / "a.xyz", Keys(energy="dft"))[0].energy == -5.0


def test_failure_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    write(path, [zoo.labelled("water")])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="column 'x' has shape"):
        write(path, [zoo.labelled("ethanol")], arrays=[{"x": np.zeros(4)}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_inputs_of_models_come_back(tmp_path):
    inputs = {"elec_temp": 0.5, "kind": np.array([1.0, 2.0])}
    given = Structure(np.array([1, 8]), np.eye(3)[:2], energy=-1.0, total_charge=-1.0, inputs=inputs)
    write(tmp_path / "a.xyz", [given])
    (found,) = read(tmp_path / "a.xyz", Keys(inputs=("elec_temp", "kind")))
    assert found.total_charge == -1.0 and found.inputs["elec_temp"] == 0.5
    np.testing.assert_array_equal(found.inputs["kind"], [1.0, 2.0])
    with pytest.raises(DataError, match="'absent' for inputs is in no frame"):
        read(tmp_path / "a.xyz", Keys(inputs=("absent",)))
