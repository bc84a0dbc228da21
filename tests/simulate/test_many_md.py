"""Molecular dynamics of many systems: each does what it would do alone, and what theory says."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read
from ase.md.verlet import VelocityVerlet

from macejax.config import ModelConfig
from macejax.data.structure import DataError
from macejax.model.model import Model, init_model
from macejax.simulate import Calculator
from macejax.simulate.many import record_each, run_many
from tests.simulate.toy import CUTOFF, LATTICE, flying_apart, hollow, morse, toy_model

ASE = 1e-10  # Angstrom after 20 steps
ALONE = 1e-12  # relative
ERRORS = 4  # standard errors of a mean


@functools.cache
def calculator() -> Calculator:
    """One for all: it keeps its compiled programs."""
    return Calculator(toy_model(), site_energy=morse)


def copper(repeat=(1, 1, 1), seed: int = 0, amplitude: float = 0.05) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=LATTICE).repeat(repeat)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def slab() -> Atoms:
    atoms = fcc111("Cu", size=(2, 1, 3), a=LATTICE, vacuum=6.0)
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.positions += 13.0  # outside of the cell
    atoms.info.clear()  # of ASE's builder, which no file can hold
    return atoms


def cluster() -> Atoms:
    return Atoms("Cu3", [[0, 0, 0], [2.5, 0, 0], [0, 2.6, 0.1]])


def zoo() -> list[Atoms]:
    return [copper(), slab(), cluster(), copper((2, 1, 1), seed=3)]


@pytest.fixture(scope="module")
def mace() -> Model:
    config = ModelConfig(
        elements=(1, 8, 29),
        e0s=(-1.0, -2.0, -3.0),
        cutoff=3.0,
        hidden_irreps="4x0e+4x1o",
        l_max=1,
        correlation=2,
        radial_mlp=(8,),
        scale=0.3,
    )
    return init_model(config, jax.random.key(0), np.float64)


def run(systems, steps, model=None, **options):
    return run_many(model or toy_model(), systems, steps, site_energy=None if model else morse, **options)


def test_nve_is_that_of_ase():
    found = run(zoo(), 20, timestep=2.0, temperature=600.0, every=7)
    for result in found.runs:
        assert [state.step for state in result.thermo] == [0, 7, 14, 20] and not result.stopped
        atoms = result.frames[0].copy()
        atoms.calc = calculator()
        VelocityVerlet(atoms, 2.0 * units.fs).run(20)
        np.testing.assert_allclose(result.atoms.positions, atoms.positions, atol=ASE, rtol=0)
        np.testing.assert_allclose(result.atoms.get_velocities(), atoms.get_velocities(), atol=ASE, rtol=0)
        np.testing.assert_allclose(result.atoms.get_forces(), atoms.get_forces(), atol=1e-9, rtol=0)
        assert result.thermo[-1].total_energy == pytest.approx(atoms.get_total_energy(), abs=1e-9)
        assert result.thermo[-1].temperature == pytest.approx(atoms.get_temperature(), rel=1e-9)
        if atoms.pbc.all():
            np.testing.assert_allclose(result.atoms.get_stress(), atoms.get_stress(), atol=1e-10, rtol=0)
            pressure = -np.mean(atoms.get_stress(include_ideal_gas=True)[:3]) / units.GPa
            assert result.thermo[-1].pressure == pytest.approx(pressure, rel=1e-8)
        assert np.ptp([state.total_energy for state in result.thermo]) < 5e-3


def check_alone(systems, chosen, model, **options):
    """`options` that are lists have one value for each system."""
    shared = run(systems, 20, model, every=5, seed=7, **options).runs
    for k in chosen:
        own = {name: [value[k]] if isinstance(value, list) else value for name, value in options.items()}
        alone = run([systems[k]], 20, model, every=5, seed=[7 + k], **own).runs[0]
        scale = np.abs(alone.atoms.positions).max()
        np.testing.assert_allclose(shared[k].atoms.positions, alone.atoms.positions, atol=ALONE * scale, rtol=0)
        np.testing.assert_allclose(shared[k].atoms.cell.array, alone.atoms.cell.array, atol=ALONE * scale, rtol=0)
        assert shared[k].thermo[-1].total_energy == pytest.approx(alone.thermo[-1].total_energy, rel=ALONE)
        assert np.abs(shared[k].atoms.positions - systems[k].positions).max() > 0.05


@pytest.mark.thorough
def test_a_system_does_what_it_does_alone(mace):
    """Another batch, another capacity, other neighbours in it: noise, lists, barostat and forces are the same."""
    systems = [copper(), copper((2, 1, 1), seed=3), copper(seed=5)]
    options = {"temperature": [300.0, 500.0, 400.0], "pressure": [0.0, 20.0, -5.0], "barostat_time": 100.0, "free_shape": True}
    check_alone(systems, [1], mace, ensemble="npt", **options)


def test_unlike_systems_do_what_they_do_alone():
    options = {"temperature": [300.0, 500.0, 400.0, 200.0], "timestep": [1.0, 2.0, 4.0, 3.0]}
    check_alone(zoo(), [1, 2], None, ensemble="nvt", **options)


@pytest.mark.thorough
def test_waiting_skin_and_frames_change_nothing():
    """Few at a time, worn lists, many or few looks of the host: the same trajectories."""
    options = {"timestep": 4.0, "temperature": 900.0, "seed": 3, "ensemble": "nvt", "relaxation_time": 50.0}
    wide = run(zoo(), 100, skin=1.5, every=100, **options)
    narrow = run(zoo(), 100, skin=0.2, every=9, batch_atoms=9, **options)
    assert narrow.summary.lists > 3 * wide.summary.lists and wide.summary.compilations <= 1
    assert narrow.summary.compilations <= 3
    for one, other in zip(wide.runs, narrow.runs, strict=True):
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-9, rtol=0)
        assert [state.step for state in one.thermo] == [0, 100]
        assert [state.step for state in other.thermo] == [*range(0, 100, 9), 100]
        assert one.thermo[-1].time == pytest.approx(400)


def test_a_list_that_does_not_last_a_step_is_widened():
    fast = Atoms("Cu2", [[0, 0, 0], [0, 0, 12.0]], momenta=[[0, 0, 40.0], [0, 0, -40.0]])
    found = run([fast, cluster()], 4, timestep=20.0, skin=0.1, max_temperature=1e9, every=1).runs
    atoms = fast.copy()
    atoms.calc = calculator()
    VelocityVerlet(atoms, 20.0 * units.fs).run(4)
    np.testing.assert_allclose(found[0].atoms.positions, atoms.positions, atol=ASE, rtol=0)
    assert not found[0].stopped and np.linalg.norm(atoms.positions[0] - fast.positions[0]) > 1


def test_a_step_beyond_everything_is_refused():
    wild = cluster()
    wild.set_momenta([[1e200, 0, 0], [0, 0, 0], [0, 0, 0]])
    bad = Atoms("Cu2", [[0, 0, 0], [0, 0, 0]])
    found = run([wild, cluster(), bad], 5, max_temperature=1e300).runs
    assert "system 0 (Cu3): step 0: an atom would move by more than" in found[0].stopped
    assert not found[1].stopped and found[1].thermo[-1].step == 5
    assert "not finite" in found[2].stopped and np.isnan(found[2].atoms.get_potential_energy()) and not found[2].thermo


def test_who_explodes_is_stopped_alone():
    bad = copper(seed=1)
    bad.positions[0] += 1.9
    good = copper(seed=2)
    found = run([good, bad, slab()], 60, timestep=6.0, temperature=300.0).runs
    assert "system 1 (Cu4): step" in found[1].stopped and found[1].thermo[-1].step < 60
    assert np.isfinite(found[1].atoms.positions).all()
    alone = run([good], 60, timestep=6.0, temperature=300.0).runs[0]
    np.testing.assert_allclose(found[0].atoms.positions, alone.atoms.positions, rtol=ALONE)
    assert not found[0].stopped and not found[2].stopped


def test_a_hole_without_forces_stops_who_falls_into_it():
    found = run_many(toy_model(), [cluster(), flying_apart()], 100, timestep=2.0, site_energy=hollow).runs
    assert "jumped" in found[1].stopped and 0 < found[1].thermo[-1].step < 100
    assert not found[0].stopped and found[0].thermo[-1].step == 100
    shallow = run_many(toy_model(), [flying_apart()], 100, timestep=2.0, site_energy=lambda *given: hollow(*given) / 1e3).runs[0]
    assert not shallow.stopped and shallow.atoms.get_distance(0, 1) > 4.0  # 4000 eV are not that much


def test_numbers_that_are_not_finite_are_named():
    def broken(params, vectors, graph):
        bad = (graph.nodes["positions"][:, 0] > 5) & graph.nodes["mask"]
        return jnp.where(bad, jnp.nan, morse(params, vectors, graph))

    flying = cluster()
    flying.set_velocities([[0.3, 0, 0]] * 3)
    found = run_many(toy_model(), [cluster(), flying], 200, timestep=2.0, site_energy=broken).runs
    assert "not finite" in found[1].stopped and 0 < found[1].thermo[-1].step < 200
    assert np.isfinite(found[1].atoms.get_forces()).all() and found[1].atoms.positions.max() > 4
    assert not found[0].stopped and found[0].thermo[-1].step == 200


def test_every_system_may_have_its_own_parameters():
    models = [toy_model(), toy_model(depth=0.3)]
    systems = [copper(seed=k) for k in range(4)]
    chosen = [models[k] for k in (0, 1, 0, 0)]  # one has nothing to do while the other goes on
    found = run_many(chosen, systems, 15, temperature=400.0, site_energy=morse, timestep=3.0, batch_atoms=4)
    assert found.summary.compilations <= 1
    for k, (model, atoms) in enumerate(zip(chosen, systems, strict=True)):
        alone = run_many(model, [atoms], 15, temperature=400.0, site_energy=morse, timestep=3.0, seed=[k]).runs[0]
        np.testing.assert_allclose(found.runs[k].atoms.positions, alone.atoms.positions, rtol=ALONE, atol=1e-12)
    other = models[0]._replace(config=models[0].config.model_copy(update={"cutoff": 3.0}))
    with pytest.raises(ValueError, match="one configuration"):
        run_many([models[0], other, *chosen[:2]], systems, 1, site_energy=morse)


@pytest.mark.thorough
def test_a_committee_of_mace(mace):
    """Through vmap over the parameters, in float32: only the model is, positions and velocities stay float64."""
    second = init_model(mace.config, jax.random.key(1), np.float64)
    found = run([copper(), copper()], 10, [mace, second], temperature=300.0, seed=[0, 0], every=10, dtype="float32").runs
    assert np.abs(found[0].atoms.positions - found[1].atoms.positions).max() > 1e-4
    for model, result in zip((mace, second), found, strict=True):
        atoms = result.frames[0].copy()
        atoms.calc = Calculator(model)
        VelocityVerlet(atoms, 1.0 * units.fs).run(10)
        difference = np.abs(result.atoms.positions - atoms.positions).max()
        assert 1e-12 < difference < 1e-5  # not float64, but near


def test_temperatures_of_replicas_are_reached():
    targets = np.repeat([200.0, 400.0], 12)
    found = run([copper()] * 24, 300, ensemble="nvt", timestep=4.0, temperature=targets, relaxation_time=30.0, every=10, keep_frames=False)
    for target in (200.0, 400.0):
        means = [
            np.mean([state.temperature for state in each.thermo[10:]]) for each, t in zip(found.runs, targets, strict=True) if t == target
        ]
        assert abs(np.mean(means) - target) < ERRORS * np.std(means) / np.sqrt(len(means)) + 0.01 * target
    assert not found.runs[0].frames


def test_each_system_has_its_files(tmp_path):
    found = run(zoo(), 20, timestep=2.0, temperature=600.0, every=7, observe=record_each(tmp_path / "runs")).runs
    for k, result in enumerate(found):
        frames = read(tmp_path / "runs" / f"{k}.xyz", ":")
        lines = [json.loads(line) for line in (tmp_path / "runs" / f"{k}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 7, 14, 20] and len(frames) == 4
        np.testing.assert_allclose(frames[-1].get_momenta(), result.atoms.get_momenta(), atol=1e-7, rtol=0)
        assert frames[-1].get_potential_energy() == pytest.approx(lines[-1]["potential_energy"], abs=1e-7)
    with pytest.raises(FileExistsError, match="0.xyz exists"):
        run(zoo(), 20, timestep=2.0, temperature=600.0, every=7, observe=record_each(tmp_path / "runs"))


@pytest.mark.physics_long
def test_an_ideal_gas_has_its_volume():
    """P(V) ~ V^N exp(-P V / kT): mean (N + 1) kT / P, variance (N + 1) (kT / P)^2."""
    number, temperature, pressure = 3, 300.0, 0.5
    unit = units.kB * temperature / (pressure * units.GPa)
    gas = Atoms(
        f"Cu{number}", np.random.default_rng(0).uniform(size=(number, 3)), cell=np.eye(3) * ((number + 1) * unit) ** (1 / 3), pbc=True
    )
    found = run_many(
        toy_model()._replace(config=toy_model().config.model_copy(update={"cutoff": 0.1})),
        [gas] * 200,
        800,
        ensemble="npt",
        timestep=2.0,
        temperature=temperature,
        pressure=pressure,
        relaxation_time=20.0,
        barostat_time=100.0,
        compressibility=1 / pressure,
        every=40,
        keep_frames=False,
        skin=3.0,
        site_energy=lambda params, vectors, graph: 0 * jnp.sum(vectors, axis=(1, 2)),
    ).runs
    volumes = np.array([[state.volume for state in each.thermo[8:]] for each in found]) / unit
    assert not any(each.stopped for each in found)
    means = volumes.mean(axis=1)
    assert abs(means.mean() - (number + 1)) < ERRORS * means.std() / np.sqrt(len(means))
    spreads = ((volumes - (number + 1)) ** 2).mean(axis=1)
    assert abs(spreads.mean() - (number + 1)) < ERRORS * spreads.std() / np.sqrt(len(means))


@pytest.mark.thorough
def test_a_pressure_is_reached():
    """Cold, so that the volume is where dE/dV = -P, to the expansion that is left."""
    pressure = 30.0
    end = run(
        [primitive()], 400, ensemble="npt", timestep=4.0, temperature=1.0, pressure=pressure, barostat_time=50.0, free_shape=True
    ).runs[0]
    scales = np.linspace(0.9, 1.0, 2001)
    start = primitive().cell.array
    enthalpy = [energy_of(start * s) + pressure * units.GPa * abs(np.linalg.det(start * s)) for s in scales]
    best = abs(np.linalg.det(start)) * scales[np.argmin(enthalpy)] ** 3
    assert end.atoms.get_volume() == pytest.approx(best, rel=0.01) and best < 0.9 * abs(np.linalg.det(start))
    assert end.thermo[-1].pressure == pytest.approx(pressure, rel=0.05)


def primitive() -> Atoms:
    return bulk("Cu", a=LATTICE)


def fluctuations(free_shape: bool, replicas: int = 64, temperature: float = 100.0):
    """Cells of replicas of the one-atom crystal, [replicas, frames, 3, 3]."""
    found = run(
        [primitive()] * replicas,
        1200,
        ensemble="npt",
        timestep=4.0,
        temperature=temperature,
        relaxation_time=20.0,
        barostat_time=100.0,
        compressibility=0.01,
        free_shape=free_shape,
        every=40,
        skin=1.0,
    )
    assert not any(each.stopped for each in found.runs)
    return np.array([[frame.cell.array for frame in each.frames[10:]] for each in found.runs])


def energy_of(cell: np.ndarray) -> float:
    atoms = primitive()
    atoms.set_cell(cell, scale_atoms=True)
    n = np.array(np.meshgrid(*[range(-4, 5)] * 3)).reshape(3, -1).T
    r = np.linalg.norm(n @ cell, axis=1)
    r = r[(r > 0) & (r < CUTOFF)]
    p = toy_model().params
    return float(np.sum(p["depth"] * ((1 - np.exp(-p["a"] * (r - p["r0"]))) ** 2 - 1) * (1 - (r / CUTOFF) ** 2) ** 4) / 2)


@pytest.mark.physics_long
def test_the_volume_fluctuates_as_it_should():
    """One atom: P(V) ~ V exp(-E(V) / kT), by quadrature."""
    cells = fluctuations(free_shape=False)
    volumes = np.abs(np.linalg.det(cells))
    start = primitive().cell.array
    scales = np.linspace(0.95, 1.08, 400)
    grid = abs(np.linalg.det(start)) * scales**3
    weight = grid * np.exp(-(np.array([energy_of(start * s) for s in scales]) - energy_of(start)) / (units.kB * 100)) * scales**2
    mean = np.sum(weight * grid) / np.sum(weight)
    spread = np.sum(weight * (grid - mean) ** 2) / np.sum(weight)
    means, spreads = volumes.mean(axis=1), ((volumes - mean) ** 2).mean(axis=1)
    assert abs(means.mean() - mean) < ERRORS * means.std() / np.sqrt(len(means))
    assert abs(spreads.mean() - spread) < ERRORS * spreads.std() / np.sqrt(len(means))
    assert spreads.std() / np.sqrt(len(means)) < 0.1 * spread  # the comparison means something


@pytest.mark.physics_long
def test_the_cell_fluctuates_as_its_elastic_constants_say():
    """At low temperature the strain is Gaussian, of covariance kT times the inverse of d2E/d(strain)2."""
    temperature = 20.0
    cells = fluctuations(free_shape=True, replicas=128, temperature=temperature)
    start = cells.mean(axis=(0, 1))
    strains = np.linalg.solve(primitive().cell.array, cells) - np.eye(3)
    strains = (strains + np.swapaxes(strains, -1, -2)) / 2
    voigt = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    basis = [np.zeros((3, 3)) for _ in voigt]
    for unit, (i, j) in zip(basis, voigt, strict=True):
        unit[i, j] = unit[j, i] = 1 if i == j else 0.5
    h, second = 1e-3, np.zeros((6, 6))
    for a in range(6):
        for b in range(6):
            second[a, b] = sum(
                s * t * energy_of(start @ (np.eye(3) + h * (s * basis[a] + t * basis[b]))) for s in (1, -1) for t in (1, -1)
            ) / (4 * h * h)
    covariance = units.kB * temperature * np.linalg.inv(second)
    found = np.stack([strains[..., i, j] * (1 if i == j else 2) for i, j in voigt], axis=-1)
    found = found - found.mean(axis=(0, 1))
    for kind in (slice(0, 3), slice(3, 6)):  # strains along, and across, the axes of a cubic crystal
        expected = np.diag(covariance)[kind].mean()
        each = (found[..., kind] ** 2).mean(axis=(1, 2))
        error = each.std() / np.sqrt(len(each))
        assert abs(each.mean() - expected) < ERRORS * error + 0.03 * expected, kind
        assert error < 0.1 * expected  # the comparison means something


def test_options_are_checked():
    water = molecule("H2O")
    held = molecule("H2O")
    held.set_constraint(FixBondLength(0, 1))
    fixed = copper()
    fixed.set_constraint(FixAtoms([0]))
    for systems, options, message in (
        ([water], {"ensemble": "nvt"}, "needs a temperature"),
        ([water], {"ensemble": "nph"}, "ensemble must be"),
        ([water], {"pressure": 1.0}, "nve would ignore"),
        ([water], {"free_shape": True}, "nve would ignore"),
        ([water], {"relaxation_time": 1.0}, "nve would ignore"),
        ([water, water], {"temperature": [1.0]}, "1 values for 2 systems"),
        ([copper(), water], {"ensemble": "npt", "temperature": 300.0}, r"system 1 \(H2O\): npt needs"),
        ([fixed], {"ensemble": "npt", "temperature": 300.0}, "npt moves every atom"),
        ([held], {}, "FixBondLength"),
        ([bulk("Au")], {}, r"system 0 \(Au\)"),
        ([], {}, "no system"),
        ([water], {"skin": 0.0}, "skin"),
        ([water], {"timestep": -1.0}, "timestep must be above 0"),
        ([water], {"seed": -1}, "seed must be from 0"),
    ):
        with pytest.raises((ValueError, DataError), match=message):
            run(systems, 1, **options)
