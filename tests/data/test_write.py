"""Extended XYZ out and in again, with every digit."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest

from macejax.data.labels import Keys
from macejax.data.read import read
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
