"""Labels: which key, whose sign, and what stays missing. ASE's Atoms in and out."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from macejax.data.labels import Keys
from macejax.data.read import from_atoms, read, to_atoms
from macejax.data.structure import DataError, Structure
from tests import structures as zoo

FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
STRESS = np.array([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]])
VOIGT = np.array([1.0, 2.0, 3.0, 0.4, 0.5, 0.6])


def crystal(**calculated: object) -> Atoms:
    atoms = Atoms("Si2", [[0, 0, 0], [1, 1, 1]], cell=4 * np.eye(3), pbc=True)
    if calculated:
        atoms.calc = SinglePointCalculator(atoms, **calculated)
    return atoms


def test_labels_that_ase_moved_into_a_calculator(tmp_path: Path) -> None:
    for name in ("a.xyz", "a.traj"):
        path = tmp_path / name
        ase.io.write(path, crystal(energy=-1.5, forces=FORCES, stress=VOIGT))
        assert "energy" not in ase.io.read(path).info  # the trap
        (structure,) = read(path)
        assert structure.energy == -1.5
        np.testing.assert_allclose(structure.forces, FORCES, atol=1e-8)
        np.testing.assert_array_equal(structure.stress, STRESS)
        assert structure.virials is None


def test_forces_of_constrained_atoms_are_not_zeroed(tmp_path: Path) -> None:
    atoms = crystal(energy=-1.5, forces=FORCES)
    atoms.set_constraint(FixAtoms([0]))
    assert not atoms.get_forces()[0].any()  # what ASE would say
    np.testing.assert_array_equal(from_atoms(atoms).forces, FORCES)
    for name in ("a.xyz", "a.traj"):
        ase.io.write(tmp_path / name, atoms)
        np.testing.assert_allclose(read(tmp_path / name)[0].forces, FORCES, atol=1e-8)


@pytest.mark.parametrize("form", [STRESS, STRESS.reshape(9), VOIGT, STRESS.tolist()], ids=["3x3", "9", "Voigt", "list"])
@pytest.mark.parametrize("key", ["stress", "virials"])
def test_forms_of_a_tensor(form: object, key: str, tmp_path: Path) -> None:
    atoms = crystal()
    atoms.info |= {f"REF_{key}": form, "REF_energy": 0.0}
    np.testing.assert_array_equal(getattr(from_atoms(atoms), key), STRESS)
    ase.io.write(tmp_path / "a.xyz", atoms)
    np.testing.assert_array_equal(getattr(read(tmp_path / "a.xyz")[0], key), STRESS)


def test_stress_has_the_sign_of_ase() -> None:
    """A stretched crystal wants to shrink: positive stress, negative virials."""
    copper = bulk("Cu", "fcc", a=3.75)
    copper.calc = EMT()
    copper.get_stress()
    assert np.all(np.diag(from_atoms(copper).stress) > 0)


def test_custom_keys(tmp_path: Path) -> None:
    atoms = crystal()
    atoms.info["dft_energy"] = -2.0
    atoms.arrays["dft_forces"] = FORCES
    ase.io.write(tmp_path / "a.xyz", atoms)
    (structure,) = read(tmp_path / "a.xyz", Keys(energy="dft_energy", forces="dft_forces"))
    assert structure.energy == -2.0 and structure.stress is None
    np.testing.assert_array_equal(structure.forces, FORCES)


def test_key_that_is_nowhere_lists_those_that_are(tmp_path: Path) -> None:
    atoms = crystal()
    atoms.info["dft_energy"] = -2.0
    atoms.arrays["dft_forces"] = FORCES
    ase.io.write(tmp_path / "a.xyz", atoms)
    with pytest.raises(
        DataError, match=r"a\.xyz: the key 'DFT_energy' for energy is in no frame; the keys there are: dft_energy, dft_forces"
    ):
        read(tmp_path / "a.xyz", Keys(energy="DFT_energy"))
    with pytest.raises(DataError, match=r"a\.xyz: holds no labels; looked for 'REF_energy'.*there are: dft_energy, dft_forces"):
        read(tmp_path / "a.xyz")
    assert math.isnan(read(tmp_path / "a.xyz", need_labels=False)[0].energy)


def test_own_keys_win_over_those_of_ase() -> None:
    atoms = crystal(energy=-1.5, forces=FORCES)
    atoms.info["REF_energy"] = -7.0
    with pytest.warns(UserWarning, match="1 of 1 frames have 'forces' but no 'REF_forces'.*key for forces to 'forces'"):
        structure = from_atoms(atoms)
    assert structure.energy == -7.0
    assert structure.forces is None  # of another level of theory, perhaps
    np.testing.assert_array_equal(from_atoms(atoms, Keys(forces="forces")).forces, FORCES)


def test_choice_of_keys_is_made_for_the_whole_file(tmp_path: Path) -> None:
    """A frame without REF_energy does not fall back to ASE's energy where other frames have REF_energy; but that is said."""
    with_reference, without = crystal(), crystal(energy=-1.5)
    with_reference.info["REF_energy"] = -7.0
    ase.io.write(tmp_path / "a.xyz", [with_reference, without, without])
    with pytest.warns(UserWarning, match=r"a\.xyz: 2 of 3 frames have 'energy' but no 'REF_energy'"):
        first, second, _ = read(tmp_path / "a.xyz")
    assert first.energy == -7.0 and math.isnan(second.energy)
    own = crystal(energy=-1.5)
    own.info["dft"] = -7.0
    ase.io.write(tmp_path / "a.xyz", [own, without])
    with pytest.warns(UserWarning, match="1 of 2 frames have 'energy' but no 'dft'"):
        read(tmp_path / "a.xyz", Keys(energy="dft"))


def test_frames_that_have_a_label_under_both_names_or_none_are_no_matter(tmp_path: Path) -> None:
    both, none = crystal(energy=-1.5), crystal()
    both.info["REF_energy"] = -7.0
    ase.io.write(tmp_path / "a.xyz", [both, none])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert read(tmp_path / "a.xyz")[0].energy == -7.0
        ase.io.write(tmp_path / "b.xyz", [crystal(energy=-1.5), none])
        assert read(tmp_path / "b.xyz")[0].energy == -1.5


def test_key_none_reads_nothing() -> None:
    atoms = crystal(energy=-1.5, forces=FORCES, stress=VOIGT)
    structure = from_atoms(atoms, Keys(stress=None))
    assert structure.stress is None and structure.energy == -1.5


def test_energy_in_atoms_and_calculator_that_differ() -> None:
    atoms = crystal(energy=-1.5)
    atoms.info["energy"] = -1.6
    with pytest.raises(DataError, match=r"'energy' in the atoms and in their calculator contradict"):
        from_atoms(atoms)


def test_results_of_other_positions_are_not_taken() -> None:
    atoms = crystal(energy=-1.5)
    atoms.positions[0, 0] += 0.1
    assert math.isnan(from_atoms(atoms).energy)


def test_everything_else_that_a_frame_says() -> None:
    atoms = crystal()
    atoms.info |= {
        "REF_energy": -1.0,
        "dipole": [0.1, 0.2, 0.3],
        "head": "pbe",
        "total_charge": -1,
        "total_spin": 3,
        "config_type": "bulk",
        "config_weight": 2.0,
        "config_energy_weight": 0.5,
        "config_forces_weight": 0,
    }
    atoms.arrays["REF_charges"] = np.array([0.5, -0.5])
    structure = from_atoms(atoms)
    assert (structure.head, structure.total_charge, structure.total_spin, structure.config_type) == ("pbe", -1.0, 3.0, "bulk")
    assert structure.weight == 2.0 and structure.weights == {"energy": 0.5, "forces": 0.0}
    np.testing.assert_array_equal(structure.dipole, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(structure.charges, [0.5, -0.5])
    bare = from_atoms(crystal())
    assert (bare.head, bare.total_charge, bare.total_spin, bare.config_type, bare.weight) == ("Default", 0.0, 1.0, "Default", 1.0)
    assert bare.weights == {} and bare.dipole is None and bare.charges is None


@pytest.mark.parametrize("value", [True, "low", None, [1.0, 2.0], {"a": 1}])
def test_energy_that_is_no_number(value: object) -> None:
    atoms = crystal()
    atoms.info["REF_energy"] = value
    if value is None:
        assert math.isnan(from_atoms(atoms).energy)
    else:
        with pytest.raises(DataError, match="REF_energy is"):
            from_atoms(atoms, source="x")


def test_structure_does_not_follow_its_atoms() -> None:
    atoms = crystal(energy=-1.5, forces=FORCES.copy())
    structure = from_atoms(atoms)
    atoms.positions += 1
    atoms.cell[0, 0] = 9
    atoms.pbc[0] = False
    atoms.numbers[0] = 1
    atoms.calc.results["forces"][:] = 7
    np.testing.assert_array_equal(structure.positions, [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(structure.cell, 4 * np.eye(3))
    np.testing.assert_array_equal(structure.forces, FORCES)
    assert structure.pbc.all() and structure.numbers.tolist() == [14, 14]


def same(one: Structure, other: Structure) -> None:
    for field, value in one._replace(source="").weights.items():
        assert other.weights[field] == value
    for field in Structure._fields:
        if field not in ("source", "weights"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


@pytest.mark.parametrize("name", ["ethanol", "slab", "triclinic22"])
def test_to_atoms_and_back(name: str) -> None:
    structure = zoo.labelled(name)._replace(head="pbe", total_spin=2.0, config_type="x", weight=3.0, weights={"forces": 0.5})
    atoms = to_atoms(structure)
    assert atoms.calc is None and "energy" not in atoms.info
    same(structure, from_atoms(atoms))


def test_file_that_ase_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "a.cif"
    path.write_text("nonsense")
    with pytest.raises(DataError, match=r"a\.cif: "):
        read(path)


def test_compressed_file(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.xyz.gz", [crystal(energy=-1.5)] * 2, format="extxyz")
    assert [structure.energy for structure in read(tmp_path / "a.xyz.gz")] == [-1.5, -1.5]
