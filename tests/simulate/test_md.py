"""Molecular dynamics: what is conserved is conserved, what is asked for is reached, what explodes is stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.io import read, write

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.simulate import Calculator, SimulationError, recorder, run_md
from macejax.simulate.md import Thermo, drift
from macejax.simulate.record import read_frames
from tests.simulate.toy import LATTICE, flying_apart, hollow, morse, toy_model

ORDER_TWO = 0.5  # about 4, the ratio of energy fluctuations at a timestep and its half
DRIFT = 5e-3  # meV/atom/ps


def copper(repeat: int = 2, **options):
    atoms = bulk("Cu", cubic=True, a=LATTICE).repeat(repeat)
    atoms.calc = Calculator(toy_model(), site_energy=morse, **options)
    return atoms


def energies(atoms, steps, timestep, **options):
    states = []
    run_md(atoms, steps, timestep=timestep, every=1, observe=lambda _, state: states.append(state), **options)
    return states


def test_nve_conserves_energy_and_is_of_second_order():
    """Kept lists, atoms that cross the cell: an error of forces, smoothness or lists shows here before anywhere else."""
    spread = []
    for timestep in (4.0, 2.0):
        atoms = copper(1, skin=0.3)
        states = energies(atoms, int(800 / timestep), timestep, temperature=600.0)
        total = np.array([state.total_energy for state in states])
        spread.append(np.std(total))
        assert atoms.calc.num_rebuilds > 1
        if timestep == 2.0:
            assert abs(drift([state.time for state in states], total, len(atoms))) < 20 * DRIFT
        np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-9, rtol=0)
    assert spread[0] / spread[1] == pytest.approx(4, abs=ORDER_TWO)


def test_drift_is_the_slope_in_mev_per_atom_and_ps():
    assert drift([0, 500, 1000, 1500], [1.0, 1.001, 1.002, 1.003], 4) == pytest.approx(0.5)


def test_nvt_reaches_its_temperature():
    atoms = copper(2)
    states = energies(atoms, 600, 4.0, ensemble="nvt", temperature=400.0, relaxation_time=50.0)
    temperatures = np.array([state.temperature for state in states[200:]])
    assert temperatures.mean() == pytest.approx(400, rel=0.12)


def test_seeds():
    ends = []
    for seed in (1, 1, 2):
        atoms = copper(1)
        run_md(atoms, 5, ensemble="nvt", temperature=300.0, seed=seed)
        ends.append(atoms.positions)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-4


def test_looking_changes_nothing(tmp_path):
    watched, alone = copper(1), copper(1)
    with recorder(tmp_path / "md.xyz", tmp_path / "md.jsonl") as record:
        run_md(watched, 12, temperature=300.0, every=3, observe=record)
    run_md(alone, 12, temperature=300.0, every=100)
    np.testing.assert_array_equal(watched.positions, alone.positions)
    frames = read(tmp_path / "md.xyz", ":")
    lines = [json.loads(line) for line in (tmp_path / "md.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 3, 6, 9, 12]
    assert len(frames) == 5
    assert frames[-1].get_potential_energy() == pytest.approx(lines[-1]["potential_energy"], abs=1e-7)
    np.testing.assert_allclose(frames[-1].get_forces(), watched.get_forces(), atol=1e-7, rtol=0)
    np.testing.assert_allclose(frames[-1].get_momenta(), watched.get_momenta(), atol=1e-7, rtol=0)
    with pytest.raises(FileExistsError, match="md.xyz"), recorder(tmp_path / "md.xyz"):
        pass
    with pytest.raises(ConfigError, match=r"md\.traj: .* extended XYZ"), recorder(tmp_path / "md.traj"):
        pass
    assert not (tmp_path / "md.traj").exists()


def test_what_stops_before_its_first_frame_leaves_no_files(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="no start"), recorder(tmp_path / "md.xyz", tmp_path / "md.jsonl"):
            raise ValueError("no start")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="later"), recorder(tmp_path / "md.xyz", tmp_path / "md.jsonl") as record:
        atoms = bulk("Cu")
        atoms.calc = LennardJones()
        record(atoms, Thermo(0, 0.0, 0.0, 0.0, 0.0, 0.0, None, None))
        raise ValueError("later")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_structure_that_the_file_does_not_have(tmp_path):
    write(tmp_path / "one.xyz", bulk("Cu"))
    for index in ("7", "7:"):
        with pytest.raises(DataError, match="no structure at index"):
            read_frames(tmp_path / "one.xyz", index)


def test_an_exploding_run_is_stopped():
    atoms = copper(1)
    atoms.positions[0] += 1.7
    with pytest.raises(SimulationError, match=r"step \d+: the temperature"):
        run_md(atoms, 500, timestep=10.0, temperature=300.0)


def test_a_hole_without_forces_is_seen():
    atoms = flying_apart()
    atoms.calc = Calculator(toy_model(), site_energy=hollow)
    with pytest.raises(SimulationError, match=r"step \d+: the total energy is -4\S*e\+06 eV, after one step .* hole"):
        run_md(atoms, 500, timestep=2.0)
    assert 3.0 < atoms.get_distance(0, 1) < 3.1
    shallow = flying_apart()
    shallow.calc = Calculator(toy_model(), site_energy=lambda *given: hollow(*given) / 1e3)  # 4000 eV are not that much
    run_md(shallow, 100, timestep=2.0)
    assert shallow.get_distance(0, 1) > 4.0


def test_velocities():
    atoms = copper(3)
    state = run_md(atoms, 0, temperature=500.0)
    assert state.temperature == pytest.approx(500, rel=0.1)
    assert state.kinetic_energy == pytest.approx(1.5 * len(atoms) * units.kB * state.temperature)
    atoms.set_momenta(atoms.get_momenta() / 2)
    assert run_md(atoms, 0, temperature=500.0).temperature == pytest.approx(state.temperature / 4)  # those there are stay
    assert state.pressure is not None and state.volume == pytest.approx(atoms.get_volume())


def test_options_are_checked():
    atoms = molecule("H2O")
    atoms.calc = Calculator(toy_model(), site_energy=morse)
    for options, message in (
        ({"ensemble": "nvt"}, "needs a temperature"),
        ({"ensemble": "nph"}, "ensemble must be"),
        ({"ensemble": "npt", "temperature": 300.0}, "periodic"),
        ({"timestep": 0.0}, "timestep"),
        ({"temperature": float("nan")}, "a temperature is"),
        ({"pressure": 1.0}, "nve would ignore pressure"),
        ({"ensemble": "nvt", "temperature": 300.0, "free_shape": True}, "nvt would ignore free_shape"),
        ({"relaxation_time": 10.0}, "nve would ignore"),
    ):
        with pytest.raises(ValueError, match=message):
            run_md(atoms, 1, **options)
