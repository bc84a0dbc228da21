"""Calculators go through pickle, to another process too, and say there what they say here."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from macejax import Committee
from macejax.simulate import Calculator
from tests.simulate.toy import morse, toy_model


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_says_the_same(copied):
    atoms = copper()
    atoms.calc = Calculator(toy_model(), site_energy=morse, skin=0.3, info_keys={"total_charge": "q"})
    forces, stress = atoms.get_forces(), atoms.get_stress()
    again = copied(atoms)
    assert again.calc is not atoms.calc and again.calc.num_evaluations == 0
    np.testing.assert_array_equal(again.get_forces(), forces)  # results came along
    assert again.calc.num_evaluations == 0 and again.calc.atoms == copper()
    assert (again.calc.skin, again.calc.info_keys, again.calc.precision) == (0.3, {"total_charge": "q"}, atoms.calc.precision)
    again.calc.reset()
    np.testing.assert_array_equal(again.get_forces(), forces)
    np.testing.assert_array_equal(again.get_stress(), stress)
    assert again.calc.num_evaluations == 1
    assert (again.calc.num_compilations, atoms.calc.num_compilations) == ((0, 1) if copied is copy.deepcopy else (1, 1))
    again.positions[0] += 0.1
    np.testing.assert_array_equal(again.get_forces(), Calculator(toy_model(), site_energy=morse).get_forces(again))
    np.testing.assert_array_equal(atoms.get_forces(), forces)


def test_parameters_keep_their_precision():
    """Where jax's own default would cut float64 short."""
    calculator = Calculator(toy_model(depth=0.1 + 1e-12), site_energy=morse)
    with jax.enable_x64(False):
        again = pickle.loads(pickle.dumps(calculator))
    assert float(again.model.params["depth"]) == 0.1 + 1e-12
    assert again.get_potential_energy(copper()) == calculator.get_potential_energy(copper())


def test_a_committee_shares_its_program_again():
    members = Committee([toy_model(), toy_model(depth=0.5), toy_model(a=1.5)], site_energy=morse)
    atoms = copper()
    forces, spread = members.get_forces(atoms), members.get_force_spread(atoms)
    again = pickle.loads(pickle.dumps(members))
    np.testing.assert_array_equal(again.results["forces"], forces)
    again.reset()
    np.testing.assert_array_equal(again.get_forces(atoms), forces)
    np.testing.assert_array_equal(again.get_force_spread(atoms), spread)
    assert sum(member.num_compilations for member in again.members) == 1


def energy_elsewhere(atoms: Atoms) -> float:
    atoms.calc.reset()
    return atoms.get_potential_energy()


@pytest.mark.thorough
def test_in_another_process():
    atoms = copper()
    atoms.calc = Calculator(toy_model(), site_energy=morse)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(energy_elsewhere, [atoms])
    assert found == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
