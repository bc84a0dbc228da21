"""Dynamics on the device of atoms that are held, and of models that read more than atoms and cell, beside ASE and the calculator."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian
from ase.md.verlet import VelocityVerlet

from macejax.config import ConfigError, EmbeddingConfig, ModelConfig
from macejax.data.structure import DataError
from macejax.model.model import Model, init_model
from macejax.simulate import Calculator, Ensemble, run_many, run_md, run_on_device
from macejax.simulate.ensemble import settings_of
from macejax.simulate.restart import load_state
from tests.marks import rest_is_thorough
from tests.simulate.toy import LATTICE, morse, toy_model

SAME = 1e-10  # eV, eV/Angstrom, Angstrom
ERRORS = 3  # standard errors of a mean
NVE = Ensemble("nve", 2.0, 500.0)
THERMOSTATS = ("langevin", "csvr", "nose_hoover")


def copper():
    """Two atoms held, and a third along x alone."""
    atoms = bulk("Cu", cubic=True, a=LATTICE).repeat((2, 1, 1))
    atoms.set_constraint([FixAtoms([0, 3]), FixCartesian(5, (True, False, False))])
    return atoms


def test_nve_of_held_atoms_is_that_of_ase():
    ours, theirs = copper(), copper()
    theirs.calc = Calculator(toy_model(), site_energy=morse)
    seen: list = []
    expected: list = []
    run_md(theirs, 20, timestep=2.0, temperature=500.0, observe=lambda _, state: expected.append(state))
    run_on_device(toy_model(), ours, 20, NVE, site_energy=morse, observe=lambda _, state: seen.append(state))
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=SAME, rtol=0)
    np.testing.assert_allclose(ours.get_momenta(), theirs.get_momenta(), atol=SAME, rtol=0)
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=SAME, rtol=0)  # zero where held, as ASE gives them
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=SAME, rtol=SAME)
    still = copper().positions
    np.testing.assert_array_equal(ours.positions[[0, 3]], still[[0, 3]])
    assert ours.positions[5, 0] == still[5, 0] and np.abs(ours.positions - still).max() > 0.05


@pytest.mark.parametrize("thermostat", rest_is_thorough(THERMOSTATS, ["langevin"]))
def test_thermostats_heat_what_is_free(thermostat):
    """17 degrees of freedom of 24, none of which the motion of the whole takes away."""
    atoms, kelvin = copper(), []
    ensemble = Ensemble("nvt", 4.0, 400.0, thermostat, 50.0)
    run_on_device(toy_model(), atoms, 4000, ensemble, site_energy=morse, every=5, observe=lambda _, state: kelvin.append(state.temperature))
    series = np.array(kelvin[50:])
    error = series[: len(series) // 10 * 10].reshape(10, -1).mean(axis=1).std(ddof=1) / np.sqrt(10)
    assert abs(series.mean() - 400.0) < ERRORS * error and error < 0.05 * 400.0
    np.testing.assert_array_equal(atoms.positions[[0, 3]], copper().positions[[0, 3]])


@pytest.mark.parametrize("thermostat", ["csvr", "nose_hoover"])
def test_directions_along_which_all_atoms_are_free_keep_their_momentum(thermostat):
    """Held along z, each of four atoms: 8 degrees of freedom, of which the motion of the whole along x and y takes two."""
    atoms = bulk("Cu", cubic=True, a=LATTICE)
    atoms.set_constraint(FixCartesian(range(4), (False, False, True)))
    ensemble, free = Ensemble("nvt", 4.0, 400.0, thermostat, 50.0), ~np.array([[False, False, True]] * 4)
    assert int(settings_of(ensemble, atoms.get_masses(), free).freedoms) == 6
    assert int(settings_of(ensemble._replace(thermostat="langevin"), atoms.get_masses(), free).freedoms) == 8
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)) + [3.0, 2.0, 1.0])
    run_on_device(toy_model(), atoms, 20, ensemble, site_energy=morse)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-9, rtol=0)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """A state file holds JSON."""
    ensemble = Ensemble("nvt", np.int64(2), np.float32(400.0), relaxation_time=np.int64(50))
    state, lines = tmp_path / "md.state", []
    outcome = run_on_device(
        toy_model(),
        copper(),
        4,
        ensemble,
        site_energy=morse,
        seed=np.int64(1),
        state_file=state,
        observe=lambda _, seen: lines.append(seen),
    )
    assert load_state(state).conditions["temperature"] == 400.0 and outcome.thermo.step == 4
    several = run_many(toy_model(), [copper()] * 2, 4, timestep=np.array([1, 2]), temperature=np.float32(300), site_energy=morse).runs
    json.dumps([state._asdict() for state in [*lines, *several[1].thermo]])


def test_a_run_of_held_atoms_goes_on_as_it_began(tmp_path):
    file, ensemble = tmp_path / "md.state", Ensemble("nvt", 2.0, 500.0, "csvr")
    whole, halves, free = copper(), copper(), copper()
    free.set_constraint()
    run_on_device(toy_model(), whole, 8, ensemble, site_energy=morse)
    run_on_device(toy_model(), halves, 4, ensemble, site_energy=morse, state_file=file)
    run_on_device(toy_model(), halves, 8, ensemble, site_energy=morse, state_file=file, restart=True)
    np.testing.assert_array_equal(halves.positions, whole.positions)
    with pytest.raises(DataError, match="its held was another"):
        run_on_device(toy_model(), free, 9, ensemble, site_energy=morse, state_file=file, restart=True)


def embedding_model():
    specs = (
        EmbeddingConfig(name="total_charge", type="categorical", emb_dim=3, num_classes=5, offset=2),
        EmbeddingConfig(name="total_spin", type="categorical", emb_dim=3, num_classes=4, offset=0),
        EmbeddingConfig(name="elec_temp", type="continuous", emb_dim=3),
        EmbeddingConfig(name="label", type="continuous", per="atom", emb_dim=2),
    )
    config = ModelConfig(
        elements=(1, 8), e0s=(-1.0, -2.0), cutoff=3.0, hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,),
        joint_embedding=specs, embedding_readout=True, model="ScaleShiftMACE", scale=2.0,
    )  # fmt: skip
    return init_model(config, jax.random.key(0), np.float64)


@pytest.mark.thorough
def test_inputs_of_a_model_are_those_of_the_calculator(tmp_path):
    """Charge and spin by the names of mace-torch, a temperature of electrons, and a number of each atom; 4 steps."""
    model, ends = embedding_model(), []
    for charge in (0, 1):
        atoms = molecule("H2O")
        atoms.info |= {"charge": charge, "spin": 1 + charge, "elec_temp": 0.3}
        atoms.arrays["label"] = np.array([0.1, 0.2, 0.3])
        other = atoms.copy()
        other.calc = Calculator(model)
        VelocityVerlet(other, 0.5 * units.fs).run(4)
        run_on_device(model, atoms, 4, Ensemble("nve", 0.5), state_file=tmp_path / f"{charge}")
        np.testing.assert_allclose(atoms.positions, other.positions, atol=SAME, rtol=0)
        np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=SAME, rtol=0)
        assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=SAME)
        ends.append(atoms)
    assert np.abs(ends[0].get_forces() - ends[1].get_forces()).max() > 1e-4
    assert load_state(tmp_path / "1").conditions["inputs"]["elec_temp"] == 0.3
    with pytest.raises(DataError, match="its inputs was another"):
        run_on_device(model, ends[0], 5, Ensemble("nve", 0.5), state_file=tmp_path / "1", restart=True)
    ends[0].info["charge"] = 7
    with pytest.raises(DataError, match="total_charge is 7"):
        run_on_device(model, ends[0], 1)
    del ends[0].info["elec_temp"]
    ends[0].info["charge"] = 0
    with pytest.raises(DataError, match="needs elec_temp"):
        run_on_device(model, ends[0], 1)


@pytest.mark.thorough
def test_energies_of_a_model_of_dipoles():
    """Its energies and forces, one at a time and many at once."""
    config = ModelConfig(
        model="EnergyDipolesMACE", elements=(1, 8), e0s=(-1.0, -2.0), cutoff=3.0, hidden_irreps="4x0e+4x1o", readout_irreps="4x0e+4x1o",
        l_max=1, correlation=1, radial_mlp=(8,),
    )  # fmt: skip
    model = init_model(config, jax.random.key(0), np.float64)
    atoms, other = molecule("H2O"), molecule("H2O")
    atoms.arrays["Qs"] = np.array([-0.8, 0.4, 0.4])
    other.calc = Calculator(model)
    (many,) = run_many(model, [atoms], 3, timestep=0.5).runs
    run_on_device(model, atoms, 3, Ensemble("nve", 0.5))
    VelocityVerlet(other, 0.5 * units.fs).run(3)
    for found in (atoms, many.atoms):
        np.testing.assert_allclose(found.positions, other.positions, atol=SAME, rtol=0)
        assert found.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=SAME)
    dipoles = ModelConfig(model="AtomicDipolesMACE", elements=(1, 8), e0s=(0.0, 0.0), readout_irreps="4x0e+4x1o", hidden_irreps="4x0e+4x1o")
    with pytest.raises(ConfigError, match="predicts no energies"):
        run_on_device(Model(dipoles, {}), molecule("H2O"), 1)


def test_what_cannot_be_held_is_refused():
    water, frozen, cell = molecule("H2O"), copper(), copper()
    water.set_constraint(FixBondLength(0, 1))
    frozen.set_constraint(FixAtoms(range(8)))
    for atoms, ensemble, error, message in (
        (water, NVE, DataError, "H2O: has a FixBondLengths, but on the device only FixAtoms and FixCartesian are kept"),
        (frozen, NVE, ConfigError, "nothing would move"),
        (cell, Ensemble("npt", 1.0, 300.0), ConfigError, "npt moves every atom"),
    ):
        with pytest.raises(error, match=message):
            run_on_device(toy_model(), atoms, 1, ensemble, site_energy=morse)
