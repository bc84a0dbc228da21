"""Several models at once, and what a model says beyond energies: Hessian and descriptors."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

import macejax
from macejax.model.mace import layer_irreps
from tests.simulate.toy import morse, toy_model

CONFIG = macejax.ModelConfig(
    elements=(1, 6, 8), e0s=(-1.0, -2.0, -3.0), cutoff=3.0, hidden_irreps="4x0e + 4x1o", l_max=1, correlation=2, radial_mlp=(8,)
)


@pytest.fixture(scope="module")
def models():
    return [macejax.init_model(CONFIG, jax.random.key(seed), np.float64) for seed in range(3)]


@pytest.fixture(scope="module")
def committee(models):
    return macejax.Committee(models)


def test_mean_and_spread(models, committee):
    atoms = molecule("CH3CH2OH")
    atoms.calc = committee
    alone = [macejax.Calculator(model) for model in models]
    energies = [calculator.get_potential_energy(atoms) for calculator in alone]
    forces = np.array([calculator.get_forces(atoms) for calculator in alone])
    assert atoms.get_potential_energy() == pytest.approx(np.mean(energies), abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), forces.mean(axis=0), atol=1e-10, rtol=0)
    np.testing.assert_allclose(committee.results["energy_comm"], energies, atol=1e-10, rtol=0)
    assert committee.results["energy_var"] == pytest.approx(np.var(energies), rel=1e-9)
    assert np.var(energies) > 1e-6
    assert type(committee.get_property("energy_var", atoms)) is float and committee.get_property("forces_comm", atoms).shape == forces.shape
    for name in ("energy", "energies", "forces", "stress"):
        assert {f"{name}_comm", f"{name}_var"} <= {*committee.implemented_properties}
    assert not {"dipole", "dipole_var", "node_energy_var"} & {*committee.implemented_properties}
    committee.reset()
    assert committee.get_property("energy_var", atoms) == pytest.approx(np.var(energies), rel=1e-9)
    np.testing.assert_allclose(committee.results["forces_var"], forces.var(axis=0), atol=1e-10, rtol=0)
    np.testing.assert_allclose(committee.get_force_spread(atoms), np.sqrt(forces.var(axis=0).sum(axis=1)), atol=1e-10, rtol=0)
    with pytest.raises(PropertyNotImplementedError, match="no stress, its cell no volume"):
        committee.get_property("stress_var", molecule("CH4"))


@pytest.mark.thorough
def test_a_committee_says_what_each_member_says(models):
    atoms, members = molecule("H2O"), macejax.Committee(models[:2])
    with pytest.raises(ValueError, match="no atoms yet"):
        members.get_force_spread()
    for of_committee, of_one in (
        (members.get_descriptors(atoms, num_layers=1), lambda one: one.get_descriptors(atoms, num_layers=1)),
        (members.get_hessian(atoms, of=(0,)), lambda one: one.get_hessian(atoms, of=(0,))),
    ):
        assert len(of_committee) == 2
        for found, model in zip(of_committee, models, strict=False):
            np.testing.assert_allclose(found, of_one(macejax.Calculator(model)), atol=1e-10 * np.abs(found).max(), rtol=0)


def test_members_alike_share_one_program(committee):
    before = sum(member.num_compilations for member in committee.members)
    committee.get_forces(molecule("CH3CH2OH"))
    assert sum(member.num_compilations for member in committee.members) == max(before, 1) == 1


@pytest.mark.thorough
def test_stress_and_relaxation_work_as_with_one(models):
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.02, seed=0)
    crystal.calc = macejax.Committee(models[:2])
    mean = np.mean([macejax.Calculator(model).get_stress(crystal) for model in models[:2]], axis=0)
    np.testing.assert_allclose(crystal.get_stress(), mean, atol=1e-12, rtol=0)
    assert crystal.calc.results["stress_comm"].shape == (2, 3, 3) and crystal.calc.results["stress_var"].shape == (3, 3)


def test_files_by_pattern(models, tmp_path):
    for seed, model in enumerate(models[:2]):
        macejax.save(tmp_path / f"member_{seed}.mace", model)
    assert len(macejax.Committee(str(tmp_path / "member_*.mace")).members) == 2
    with pytest.raises(ValueError, match="two members or more, not 0"):
        macejax.Committee(str(tmp_path / "nothing_*"))
    with pytest.raises(ValueError, match="not 1"):
        macejax.Committee(models[:1])


@pytest.mark.thorough
def test_hessian_is_the_derivative_of_the_forces(models):
    atoms = molecule("H2O")
    calculator = macejax.Calculator(models[0])
    found = calculator.get_hessian(atoms)
    assert found.shape == (9, 3, 3)
    step = 1e-4
    for row in (0, 4, 8):
        forces = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions.ravel()[row] += sign * step
            forces.append(calculator.get_forces(moved))
        np.testing.assert_allclose(found[row], (forces[1] - forces[0]) / (2 * step), atol=1e-6 * np.abs(found).max(), rtol=0)


def test_descriptors(models):
    atoms = molecule("CH3CH2OH")
    calculator = macejax.Calculator(models[0])
    invariant, everything = calculator.get_descriptors(atoms), calculator.get_descriptors(atoms, invariants_only=False)
    assert layer_irreps(CONFIG) == ["4x0e + 4x1o", "4x0e"]
    assert invariant.shape == (9, 8) and everything.shape == (9, 4 + 12 + 4)
    np.testing.assert_array_equal(everything[:, :4], invariant[:, :4])
    np.testing.assert_array_equal(calculator.get_descriptors(atoms, num_layers=1), invariant[:, :4])
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3))
    np.testing.assert_allclose(calculator.get_descriptors(turned), invariant, atol=1e-10 * np.abs(invariant).max(), rtol=0)
    probe = Atoms("H3", np.eye(3))
    probe.rotate(40, (1, 2, 3))
    before = everything[:, 4:16].reshape(9, 4, 3)
    after = calculator.get_descriptors(turned, invariants_only=False)[:, 4:16].reshape(9, 4, 3)
    np.testing.assert_allclose(after, before @ probe.positions, atol=1e-10 * np.abs(before).max(), rtol=0)
    with pytest.raises(ValueError, match="from 1 to 2"):
        calculator.get_descriptors(atoms, num_layers=3)
    with pytest.raises(ValueError, match="no descriptors"):
        macejax.Calculator(toy_model(), site_energy=morse).get_descriptors(molecule("H2O"))
    with pytest.raises(ValueError, match="no atoms yet"):
        macejax.Calculator(models[0]).get_descriptors()
