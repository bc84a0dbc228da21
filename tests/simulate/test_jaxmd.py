"""In jax-md: energies, forces and stress of the calculator, and jax-md's own simulations and minimisers at work on them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE

import macejax
from macejax.config import ConfigError, ModelConfig
from macejax.data.batch import batch, capacity_for, round_slots
from macejax.data.read import from_atoms
from macejax.data.structure import DataError
from macejax.simulate import Calculator, Ensemble, run_md, run_on_device
from macejax.simulate.md import thermalize
from tests.simulate.toy import LATTICE, morse, toy_model

jax_md = pytest.importorskip("jax_md", reason="jax-md is not installed: pip install 'macejax[md]'")
from jax_md import minimize, quantity, simulate, space  # noqa: E402

from macejax.simulate import jaxmd  # noqa: E402

SAME = 1e-10  # eV, eV/Angstrom, Angstrom: float64, other order of sums
MODEL = toy_model()
KT = 300 * units.kB
STEP = float(np.float32(2.0 * units.fs))  # jax-md rounds timesteps to float32


def copper(repeat=1, shape=None, **changes) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=LATTICE).repeat(repeat)
    if shape is not None:
        atoms.set_cell(atoms.cell.array @ np.array(shape), scale_atoms=True)
    atoms.rattle(0.05, seed=0)
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


SHEARED = [[1.02, 0, 0], [0.05, 0.98, 0], [0.04, 0.03, 1.0]]  # lower triangular rows: upper triangular columns
SYSTEMS = {
    "triclinic": copper((2, 1, 1), SHEARED),
    "smaller than the cutoff": bulk("Cu", a=LATTICE),
    "slab": fcc111("Cu", (2, 2, 2), a=LATTICE, vacuum=5.0),
    "wire": copper(pbc=(False, True, False)),
    "cluster": copper(pbc=False),
}


def setup(atoms: Atoms, fractional: bool, **options):
    """neighbor_fn, energy_fn, positions and box."""
    box = atoms.cell.array.T
    options = {"site_energy": morse, "pbc": atoms.pbc, "fractional_coordinates": fractional, **options}
    return (
        *jaxmd.potential(options.pop("model", MODEL), atoms.numbers, box, **options),
        jnp.asarray(atoms.get_scaled_positions(wrap=False) if fractional else atoms.positions),
        jnp.asarray(box),
    )


@pytest.mark.parametrize(("name", "fractional"), [*((name, False) for name in SYSTEMS), ("triclinic", True), ("slab", True)])
def test_energy_and_forces_are_those_of_the_calculator(name, fractional):
    atoms = SYSTEMS[name].copy()
    atoms.calc = Calculator(MODEL, site_energy=morse)
    neighbor_fn, energy_fn, R, _ = setup(atoms, fractional)
    energy, gradient = jax.jit(jax.value_and_grad(energy_fn, argnums=1))(MODEL.params, R, neighbor_fn.allocate(R))
    assert energy + jaxmd.e0_sum(MODEL.config, atoms.numbers) == pytest.approx(atoms.get_potential_energy(), abs=SAME)
    np.testing.assert_allclose(-gradient, atoms.get_forces(), atol=SAME, rtol=0)


@pytest.mark.parametrize("name", ["triclinic", "smaller than the cutoff"])
def test_derivatives_by_the_box_are_the_stress(name):
    """By the box at fixed fractional coordinates, by jax-md's perturbation, and by `macejax.predict`."""
    atoms = SYSTEMS[name]
    neighbor_fn, energy_fn, R, box = setup(atoms, True)
    neighbor = neighbor_fn.allocate(R)
    graph = macejax.build_graph(from_atoms(atoms), MODEL.config.elements, MODEL.config.cutoff)
    expected = macejax.predict(morse, MODEL.params, batch([graph], capacity_for([graph]), np.float64)).stress[0]
    by_box = jax.jit(jax.grad(lambda box: energy_fn(MODEL.params, R, neighbor, box=box)))(box)
    np.testing.assert_allclose(by_box @ box.T / np.linalg.det(box), expected, atol=SAME, rtol=0)
    energy = jaxmd.position_first(energy_fn)
    by_strain = -jax.jit(lambda box: quantity.stress(energy, R, box, params=MODEL.params, neighbor=neighbor))(box)
    np.testing.assert_allclose((by_strain + by_strain.T) / 2, expected, atol=SAME, rtol=0)


@pytest.mark.thorough
def test_a_model_of_two_layers():
    """A small MACE: the calculator, jax-md and dynamics on the device say the same, and take the same four steps."""
    config = ModelConfig(
        elements=(29,),
        e0s=(-3.0,),
        cutoff=3.0,
        hidden_irreps="4x0e + 4x1o",
        l_max=1,
        correlation=2,
        radial_mlp=(8,),
        model="ScaleShiftMACE",
        scale=0.1,
    )
    model = macejax.init_model(config, jax.random.key(0), np.float64)
    atoms = copper(1, SHEARED)
    thermalize(atoms, 600.0, np.random.default_rng(0))
    moved, other = atoms.copy(), atoms.copy()
    atoms.calc = other.calc = Calculator(model)
    neighbor_fn, energy_fn, R, box = setup(atoms, True, site_energy=None, model=model)
    neighbor = neighbor_fn.allocate(R)
    energy, (gradient, by_box) = jax.jit(jax.value_and_grad(energy_fn, argnums=(1, 3)))(model.params, R, neighbor, box)
    assert energy + jaxmd.e0_sum(config, atoms.numbers) == pytest.approx(atoms.get_potential_energy(), abs=SAME)
    np.testing.assert_allclose(-gradient, atoms.get_forces(), atol=SAME, rtol=0)
    np.testing.assert_allclose(by_box @ box.T / np.linalg.det(box), atoms.get_stress(voigt=False), atol=SAME, rtol=0)
    run_on_device(model, moved, 4, Ensemble("nve", 2.0))
    run_md(other, 4, timestep=2.0)
    np.testing.assert_allclose(moved.positions, other.positions, atol=SAME, rtol=0)
    np.testing.assert_allclose(moved.get_forces(), other.get_forces(), atol=SAME, rtol=0)


def test_all_kinds_of_box():
    atoms = copper(2)
    energies = []
    for box in (2 * LATTICE, np.full(3, 2 * LATTICE), 2 * LATTICE * np.eye(3)):
        neighbor_fn, energy_fn = jaxmd.potential(MODEL, atoms.numbers, box, site_energy=morse)
        R = jnp.asarray(atoms.get_scaled_positions(wrap=False))
        energies.append(energy_fn(MODEL.params, R, neighbor_fn.allocate(R)))
    np.testing.assert_allclose(energies, energies[0], atol=SAME, rtol=0)


def test_parameters_are_arguments():
    """Differentiable by them, also through the forces; the energy of the toy is linear in its depth."""
    atoms = SYSTEMS["triclinic"]
    neighbor_fn, energy_fn, R, _ = setup(atoms, True)
    neighbor = neighbor_fn.allocate(R)

    def forces(params):
        return -jax.grad(energy_fn, argnums=1)(params, R, neighbor)

    energy, gradient = jax.value_and_grad(energy_fn)(MODEL.params, R, neighbor)
    assert gradient["depth"] * MODEL.params["depth"] == pytest.approx(float(energy), abs=SAME)
    slope = jax.jit(jax.jacfwd(forces))(MODEL.params)["depth"]
    np.testing.assert_allclose(slope * MODEL.params["depth"], forces(MODEL.params), atol=SAME, rtol=0)


@pytest.mark.parametrize("fractional", [True, False], ids=["fractional", "real"])
def test_nve_is_that_of_ase(fractional):
    """20 steps, in one program, through rebuilds of the list and wrapped positions, in a cell smaller than twice the cutoff."""
    atoms = copper((2, 1, 1), SHEARED)
    thermalize(atoms, 900.0, np.random.default_rng(0))
    neighbor_fn, energy_fn, R, box = setup(atoms, fractional, dr_threshold=0.3)
    _, shift = space.periodic_general(box, fractional_coordinates=fractional)
    init, apply = simulate.nve(jaxmd.position_first(energy_fn), shift, STEP)
    neighbor, options = neighbor_fn.allocate(R), {"params": MODEL.params}
    momenta, mass = jnp.asarray(atoms.get_momenta()), jnp.asarray(atoms.get_masses())
    state = init(jax.random.PRNGKey(0), R, 0.0, mass=mass, momenta=momenta, neighbor=neighbor, **options)

    def body(carry, _):
        state, neighbor = carry
        state = apply(state, neighbor=neighbor, **options)
        return (state, neighbor_fn.update(state.position, neighbor)), None

    (state, neighbor), _ = jax.jit(lambda carry: jax.lax.scan(body, carry, None, 20))((state, neighbor))
    atoms.calc = Calculator(MODEL, site_energy=morse)
    VelocityVerlet(atoms, STEP).run(20)
    found = state.position @ box.T if fractional else state.position
    apart = (np.asarray(found) - atoms.positions) @ np.linalg.inv(atoms.cell.array)
    assert np.abs(apart.round()).max() == 1  # some were wrapped
    np.testing.assert_allclose((apart - apart.round()) @ atoms.cell.array, 0, atol=SAME, rtol=0)
    assert int(neighbor.num_rebuilds) >= 1 and int(neighbor.num_late) == 0 and not neighbor.did_buffer_overflow


def test_late_updates_are_counted():
    """An update that comes after a long way may have been too late for the energies before it."""
    atoms = copper()
    neighbor_fn, _, R, _ = setup(atoms, False, dr_threshold=0.4)
    update, is_stale = jax.jit(neighbor_fn.update), jax.jit(jaxmd.Neighbors.is_stale)
    neighbor = neighbor_fn.allocate(R)
    for moved, rebuilt, late in ((0.1, 0, 0), (0.17, 1, 0), (0.5, 2, 1), (0.5, 2, 1)):
        assert bool(is_stale(neighbor, R.at[0, 0].add(moved))) == (late > int(neighbor.num_late))
        neighbor = update(R.at[0, 0].add(moved), neighbor)
        assert (int(neighbor.num_rebuilds), int(neighbor.num_late)) == (rebuilt, late)


def test_an_overflow_is_flagged_until_the_list_is_allocated_anew():
    atoms = copper((3, 2, 2), pbc=False)
    neighbor_fn, energy_fn, R, _ = setup(atoms, False)
    update, energy = jax.jit(neighbor_fn.update), jax.jit(energy_fn)
    neighbor = neighbor_fn.allocate(R)
    dense = update(0.6 * R, neighbor)
    assert dense.did_buffer_overflow and update(R, dense).did_buffer_overflow
    assert np.isnan(energy(MODEL.params, 0.6 * R, dense)) and np.isnan(energy(MODEL.params, R, dense))
    larger = neighbor_fn.allocate(R, extra_capacity=40)
    assert larger.rows.shape.slots >= neighbor.rows.shape.slots + 40
    updated, fresh = update(0.6 * R, larger), neighbor_fn.allocate(0.6 * R)
    assert not updated.did_buffer_overflow
    assert energy(MODEL.params, 0.6 * R, updated) == pytest.approx(float(energy(MODEL.params, 0.6 * R, fresh)), abs=1e-9)


def test_energies_are_of_the_edges_within_the_cutoff():
    """In as many slots as these need; where there are too few, the energy and its gradient are NaN, and the update says why."""
    seen = []

    def counting(params, vectors, graph):
        seen.append(vectors.shape[1])
        return morse(params, vectors, graph)

    atoms = copper((2, 2, 2))
    neighbor_fn, energy_fn, R, box = setup(atoms, True, dr_threshold=2.5, site_energy=counting, near_capacity=1.1)
    exact = most_neighbors_of(atoms, MODEL.config.cutoff)
    neighbor = neighbor_fn.allocate(R)
    energy = jax.jit(jax.value_and_grad(energy_fn, argnums=1))
    atoms.calc = Calculator(MODEL, skin=0.0, site_energy=morse)
    value, gradient = energy(MODEL.params, R, neighbor)
    assert value == pytest.approx(interaction_energy(atoms), abs=SAME)
    np.testing.assert_allclose(-gradient, atoms.get_forces(), atol=SAME, rtol=0)
    assert seen and exact <= max(seen) <= round_slots(1.1 * exact) < neighbor.rows.shape.slots

    small = 0.87 * box  # within the skin, and a shell more within the cutoff
    value, gradient = energy(MODEL.params, R, neighbor, small)
    assert np.isnan(value) and np.isnan(gradient).all()
    updated = jax.jit(neighbor_fn.update)(R, neighbor, small)
    assert updated.did_buffer_overflow and int(updated.rows.degree) <= updated.rows.shape.slots
    assert jax.jit(neighbor_fn.update)(R, updated, box).did_buffer_overflow
    larger = neighbor_fn.allocate(R, box=small)
    assert not larger.did_buffer_overflow
    atoms.set_cell(small.T, scale_atoms=True)
    value, gradient = energy(MODEL.params, R, larger, small)
    assert value == pytest.approx(interaction_energy(atoms), abs=SAME)
    np.testing.assert_allclose(-gradient, atoms.get_forces(), atol=SAME, rtol=0)


def test_a_perturbation_may_bring_edges_in():
    """More of them than there are slots within the cutoff."""
    atoms = copper((2, 2, 2))
    neighbor_fn, energy_fn, R, box = setup(atoms, True, dr_threshold=1.0, near_capacity=1.1)
    neighbor = neighbor_fn.allocate(R)
    perturbation = np.diag([0.92, 0.93, 0.95])
    value = energy_fn(MODEL.params, R, neighbor, perturbation=perturbation)
    atoms.set_cell(atoms.cell.array @ perturbation, scale_atoms=True)
    atoms.calc = Calculator(MODEL, skin=0.0, site_energy=morse)
    assert value == pytest.approx(interaction_energy(atoms), abs=SAME)
    assert most_neighbors_of(atoms, MODEL.config.cutoff) > neighbor.rows.shape.near_slots


def interaction_energy(atoms: Atoms) -> float:
    return atoms.get_potential_energy() - jaxmd.e0_sum(MODEL.config, atoms.numbers)


def most_neighbors_of(atoms: Atoms, cutoff: float) -> int:
    return int(np.bincount(neighbor_list("i", atoms, cutoff)).max())


def run(steps, init, apply, R, neighbor, look, **options):
    """The last state and what was seen, the list kept in step; momenta of 300 K."""
    mass = jnp.full(len(R), 63.5)
    momenta = jnp.sqrt(KT * mass[:, None]) * jax.random.normal(jax.random.PRNGKey(1), R.shape)
    momenta -= jnp.mean(momenta, axis=0)
    state = init(jax.random.PRNGKey(0), R, mass=mass, momenta=momenta, params=MODEL.params, neighbor=neighbor, **options)

    def body(carry, _):
        state, neighbor = carry
        state = apply(state, params=MODEL.params, neighbor=neighbor)
        neighbor = neighbor.update(state.position, **({"box": simulate.npt_box(state)} if "box" in options else {}))
        return (state, neighbor), look(state, neighbor)

    (state, neighbor), seen = jax.jit(lambda carry: jax.lax.scan(body, carry, None, steps))((state, neighbor))
    assert not neighbor.did_buffer_overflow and int(neighbor.num_late) == 0
    return state, jax.tree.map(np.asarray, seen)


@pytest.mark.parametrize(
    "name", ["nvt_nose_hoover", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nvt_langevin", "temp_csvr"))]
)
def test_thermostats(name):
    atoms = copper(2)
    neighbor_fn, energy_fn, R, box = setup(atoms, True)
    energy = jaxmd.position_first(energy_fn)
    _, shift = space.periodic_general(box)
    options = {"nvt_langevin": {"gamma": 0.3}, "temp_csvr": {"tau": 5.0}, "nvt_nose_hoover": {}}[name]
    init, apply = getattr(simulate, name)(energy, shift, STEP, KT, **options)

    def look(state, neighbor):
        if name == "nvt_nose_hoover":
            return simulate.nvt_nose_hoover_invariant(energy, state, KT, params=MODEL.params, neighbor=neighbor)
        return simulate.temperature(state) / units.kB

    _, seen = run(300, init, apply, R, neighbor_fn.allocate(R), look)
    if name == "nvt_nose_hoover":
        assert np.std(seen) < 2e-3 * len(atoms) * KT
    else:
        assert np.mean(seen[100:]) == pytest.approx(300, rel=0.15)


@pytest.mark.thorough
def test_npt_nose_hoover():
    """Its conserved energy to second order, which the virial must be right for, and the pressure that it was told. In real coordinates: on
    fractional ones jax-md 0.2.29 uses a term that is meant for real ones, and conserves nothing.
    """
    atoms = copper(2)
    neighbor_fn, energy_fn, R, box = setup(atoms, False)
    energy, pressure = jaxmd.position_first(energy_fn), 10 * units.GPa
    _, shift = space.periodic_general(box, fractional_coordinates=False)

    def look(state, neighbor):
        options = {"params": MODEL.params, "neighbor": neighbor}
        kinetic, conserved = simulate.kinetic_energy(state), simulate.npt_nose_hoover_invariant(energy, state, pressure, KT, **options)
        return conserved, quantity.pressure(energy, state.position, simulate.npt_box(state), kinetic, **options)

    spread = []
    for dt in (STEP, STEP / 2):
        init, apply = simulate.npt_nose_hoover(energy, shift, dt, pressure, KT, {"tau": 50 * STEP}, {"tau": 20 * STEP})
        _, seen = run(int(round(300 * STEP / dt)), init, apply, R, neighbor_fn.allocate(R, extra_capacity=40), look, box=box)
        spread.append(np.std(seen[0]))
        assert np.mean(seen[1][len(seen[1]) // 3 :]) == pytest.approx(pressure, rel=0.2)
    assert spread[0] / spread[1] == pytest.approx(4, abs=0.5)


@pytest.mark.thorough
def test_fire():
    """Atoms find their sites; with the box free too, the lattice its constant."""
    atoms = copper(1)
    neighbor_fn, energy_fn, R, box = setup(atoms, True)
    energy = jaxmd.position_first(energy_fn)
    _, shift = space.periodic_general(box)
    init, apply = minimize.fire_descent(energy, shift, dt_start=0.05, dt_max=0.2)
    neighbor = neighbor_fn.allocate(R)
    options = {"params": MODEL.params}

    def descend(carry, _):
        state, neighbor = carry
        state = apply(state, neighbor=neighbor, **options)
        return (state, neighbor.update(state.position)), None

    start = (init(R, neighbor=neighbor, **options), neighbor)
    (state, neighbor), _ = jax.jit(lambda carry: jax.lax.scan(descend, carry, None, 300))(start)
    assert np.abs(state.force).max() < 1e-3 and not neighbor.did_buffer_overflow
    found = Atoms("Cu4", scaled_positions=state.position, cell=atoms.cell, pbc=True)
    np.testing.assert_allclose(found.get_all_distances(mic=True)[0, 1:], LATTICE / np.sqrt(2), atol=1e-2, rtol=0)


@pytest.mark.thorough
def test_fire_of_atoms_and_box():
    """`fire_descent_box` under 5 GPa, of a crystal that is sheared, stretched and rattled, against ASE's FIRE in a FrechetCellFilter."""
    pressure, atoms = 5 * units.GPa, copper(1, SHEARED)
    neighbor_fn, energy_fn, R, box = setup(atoms, True)
    _, shift = space.periodic_general(box)
    init, apply = minimize.fire_descent_box(jaxmd.position_first(energy_fn), shift, 0.05, 0.2, scalar_pressure=pressure)
    neighbor = neighbor_fn.allocate(R, extra_capacity=40)

    def descend(carry, _):
        state, neighbor = carry
        state = apply(state, neighbor=neighbor, params=MODEL.params)
        return (state, neighbor.update(state.position, box=state.box)), None

    start = (init(R, box, neighbor=neighbor, params=MODEL.params), neighbor)
    (state, neighbor), _ = jax.jit(lambda carry: jax.lax.scan(descend, carry, None, 600))(start)
    assert not neighbor.did_buffer_overflow and int(neighbor.num_late) == 0 and int(neighbor.num_rebuilds) > 0
    assert np.abs(state.force).max() < 1e-4 and np.abs(state.box_force).max() < 1e-4
    atoms.calc = Calculator(MODEL, site_energy=morse)
    FIRE(FrechetCellFilter(atoms, scalar_pressure=pressure), logfile=None).run(fmax=1e-5, steps=2000)
    found = Atoms("Cu4", scaled_positions=state.position, cell=np.asarray(state.box).T, pbc=True, calculator=atoms.calc)
    np.testing.assert_allclose(found.cell.cellpar(), atoms.cell.cellpar(), rtol=1e-4)
    np.testing.assert_allclose(found.get_stress()[:3], -pressure, atol=1e-5, rtol=0)
    assert found.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)


@pytest.mark.thorough
@pytest.mark.x32
def test_float32():
    atoms = copper(2)
    neighbor_fn, energy_fn, R, _ = setup(atoms, False)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), MODEL.params)
    gradient = jax.grad(energy_fn, argnums=1)(params, R.astype(jnp.float32), neighbor_fn.allocate(R.astype(jnp.float32)))
    atoms.calc = Calculator(MODEL, site_energy=morse)
    expected = atoms.get_forces()
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(-gradient, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_refusals():
    with pytest.raises(ConfigError, match="near_capacity must be 1 or more, not 0.9"):
        jaxmd.potential(MODEL, [29], 10.0, near_capacity=0.9)
    with pytest.raises(DataError, match="there is no atom"):
        jaxmd.potential(MODEL, [], 10.0)
    with pytest.raises(DataError, match="Au"):
        jaxmd.potential(MODEL, [79], 10.0)
    with pytest.raises(DataError, match="without a box"):
        jaxmd.potential(ModelConfig(elements=(29,), e0s=(0.0,), cutoff=3.0), [29])
    neighbor_fn, energy_fn = jaxmd.potential(MODEL, [29, 29], pbc=False, fractional_coordinates=False, site_energy=morse)
    with pytest.raises(DataError, match="there are 2 atoms"):
        neighbor_fn.allocate(np.zeros((3, 3)))
    R = np.eye(3)[:2]
    with pytest.raises(TypeError, match="knows no velocity"):
        energy_fn(MODEL.params, R, neighbor_fn.allocate(R), velocity=1.0)
