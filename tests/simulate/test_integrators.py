"""Integrators on systems whose statistics are known: springs, an ideal gas, and an ideal gas in a cell on springs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.simulate.barostat import cell_rescaling
from macejax.simulate.integrators import (
    CHAIN,
    Settings,
    State,
    chain_energy,
    kinetic_energy,
    langevin,
    nose_hoover,
    nothing,
    step,
    velocity_rescaling,
)
from macejax.simulate.system import Evaluation

KT = 0.03  # eV
SPRING = 0.5  # eV/Angstrom^2
SIGMA = 3.0  # how far a mean may be off, in standard errors
CELL_SIGMA = 4.0  # the same of volumes and cells, whose block errors are rougher
TWO_TEMPERATURES = 3.0  # how far the slope of the ratio of two energy histograms may be off, likewise
ATOMS = 8


def springs(positions, cell, rows):
    """Every atom on a spring of its own."""
    return Evaluation(SPRING / 2 * jnp.sum(positions**2), -SPRING * positions, jnp.zeros((3, 3))), rows


def tangle(positions, cell, rows):
    """Springs that are stiffer where their neighbour is stretched, so that they exchange energy."""

    def energy(x):
        square = x.ravel() ** 2
        return SPRING / 2 * jnp.sum(square) + 5 * jnp.sum(square * jnp.roll(square, 1))

    value, gradient = jax.value_and_grad(energy)(positions)
    return Evaluation(value, -gradient, jnp.zeros((3, 3))), rows


def ideal_gas(positions, cell, rows):
    return Evaluation(jnp.zeros(()), jnp.zeros_like(positions), jnp.zeros((3, 3))), rows


def gas_in_sprung_cell(positions, cell, rows):
    """The lattice vectors are springs: U = k/2 sum |a_i|^2, dU/d(strain) = k A^T A."""
    return Evaluation(SPRING / 2 * jnp.sum(cell**2), jnp.zeros_like(positions), SPRING * cell.T @ cell), rows


def settings(**changes) -> Settings:
    masses = jnp.linspace(1.0, 4.0, ATOMS)[:, None]
    values = {
        "timestep": 0.2,
        "masses": masses,
        "thermal_energy": KT,
        "relaxation_time": 2.0,
        "freedoms": 3 * ATOMS,
        "pressure": 0.0,
        "free": np.ones((ATOMS, 3), bool),
        "mobility": 0.0,
    }
    values |= changes
    return Settings(**{name: jnp.asarray(value, bool if name == "free" else jnp.float64) for name, value in values.items()})


def start(renew, numbers: Settings, cell: float = 10.0, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    positions = jnp.asarray(rng.normal(size=(ATOMS, 3)) * np.sqrt(KT / SPRING))
    momenta = jnp.asarray(rng.normal(size=(ATOMS, 3))) * jnp.sqrt(numbers.masses * KT)
    box = cell * jnp.eye(3)
    chain = jnp.zeros((2, CHAIN))
    return State(jnp.int32(0), positions, momenta, box, renew(positions, box, None)[0], chain, jax.random.PRNGKey(seed))


@functools.partial(jax.jit, static_argnames=("middle", "renew", "steps", "look"))
def run(state: State, numbers: Settings, middle, renew, steps: int, look):
    """The last state, and what `look` saw after every step."""

    def body(state, _):
        state, _ = step(state, None, numbers, middle, renew)
        return state, look(state, numbers)

    return jax.lax.scan(body, state, None, steps)


def total_energy(state, numbers):
    return state.found.energy + kinetic_energy(state, numbers)


def energies(state, numbers):
    return kinetic_energy(state, numbers), state.found.energy


def standard_error(series: np.ndarray) -> float:
    """Of the mean of a correlated series, from the means of blocks of it."""
    blocks = series[: len(series) // 40 * 40].reshape(40, -1).mean(axis=1)
    return blocks.std(ddof=1) / np.sqrt(40)


def test_velocity_verlet_is_of_second_order_and_reversible():
    spread = []
    for timestep in (0.2, 0.1):
        numbers = settings(timestep=timestep)
        begin = start(springs, numbers)
        end, total = run(begin, numbers, nothing, springs, int(200 / timestep), total_energy)
        spread.append(np.std(total))
        back, _ = run(end._replace(momenta=-end.momenta), numbers, nothing, springs, int(200 / timestep), total_energy)
        np.testing.assert_allclose(back.positions, begin.positions, atol=1e-11, rtol=0)
        np.testing.assert_allclose(back.momenta, -begin.momenta, atol=1e-11, rtol=0)
    assert spread[0] / spread[1] == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("middle", [langevin, velocity_rescaling])
def test_thermostats_sample_the_canonical_ensemble(middle):
    """Mean and variance of the kinetic energy (a gamma distribution), and the mean of the potential one."""
    numbers = settings()
    _, (kinetic, potential) = run(start(springs, numbers), numbers, middle, springs, 60_000, energies)
    kinetic, potential, freedoms = np.array(kinetic[5000:]), np.array(potential[5000:]), 3 * ATOMS
    assert abs(kinetic.mean() - freedoms / 2 * KT) < SIGMA * standard_error(kinetic)
    # At half a step the momenta are exact; at whole steps the spread is too large by (w dt)^2 / 4, under 1 % here.
    square = (kinetic - freedoms / 2 * KT) ** 2
    assert abs(square.mean() - freedoms / 2 * KT**2) < SIGMA * standard_error(square) + 0.02 * freedoms / 2 * KT**2
    if middle is langevin:  # rescaling alone does not make springs exchange energy
        assert abs(potential.mean() - freedoms / 2 * KT) < SIGMA * standard_error(potential)


def boltzmann_slope(cold: np.ndarray, hot: np.ndarray) -> float:
    """s of ln P_hot(E) / P_cold(E) = s E + const, by maximum likelihood and without bins (Shirts, J. Chem. Theory Comput. 9, 909, 2013)."""
    energy, is_hot = np.concatenate([cold, hot]), np.repeat([0.0, 1.0], [len(cold), len(hot)])
    design = np.stack([np.ones_like(energy), (energy - energy.mean()) / energy.std()], axis=1)
    weights = np.zeros(2)
    for _ in range(10):  # of Newton: the likelihood is concave
        chance = 1 / (1 + np.exp(-design @ weights))
        weights += np.linalg.solve((design * (chance * (1 - chance))[:, None]).T @ design, design.T @ (is_hot - chance))
    return weights[1] / energy.std()


@pytest.mark.parametrize(("middle", "steps"), [(langevin, 50_000), (velocity_rescaling, 50_000), (nose_hoover, 200_000)])
def test_energies_at_two_temperatures_differ_by_boltzmann_factors(middle, steps):
    """P_hot(E) / P_cold(E) ~ exp((1 / kT_cold - 1 / kT_hot) E), of which no density of states is left."""
    temperatures, runs = (KT, 1.27 * KT), []
    for kT in temperatures:
        numbers = settings(thermal_energy=kT)
        _, total = run(start(tangle, numbers), numbers, middle, tangle, steps, total_energy)
        runs.append(np.array(total[steps // 25 :: steps // 2500]).reshape(10, -1))
    expected = 1 / temperatures[0] - 1 / temperatures[1]
    found = boltzmann_slope(*(each.ravel() for each in runs))
    without = [boltzmann_slope(*(np.delete(each, k, axis=0).ravel() for each in runs)) for k in range(10)]
    error = np.sqrt(9 * np.var(without))  # jackknife over pieces longer than the memory
    assert abs(found - expected) < TWO_TEMPERATURES * error
    assert error < 0.05 * expected  # a thermostat that fluctuates too little or too much would be seen


SHORT = 40.0  # time in which trajectories of different timesteps stay together


def test_nose_hoover_conserves_its_energy_and_heats_to_the_temperature():
    def seen(state, numbers):
        return total_energy(state, numbers) + chain_energy(state, numbers), kinetic_energy(state, numbers)

    spread = []
    for timestep in (0.2, 0.1):
        numbers = settings(timestep=timestep, relaxation_time=5.0)
        cold = start(tangle, numbers)
        cold = cold._replace(momenta=0.5 * cold.momenta)
        _, (conserved, kinetic) = run(cold, numbers, nose_hoover, tangle, int(6000 / timestep), seen)
        spread.append(np.std(conserved[: int(SHORT / timestep)]))  # later the two trajectories are no longer the same
        kinetic = np.array(kinetic[2000:])
        assert abs(kinetic.mean() - 1.5 * ATOMS * KT) < SIGMA * standard_error(kinetic)
        assert standard_error(kinetic) < 0.01 * 1.5 * ATOMS * KT
    assert spread[0] / spread[1] == pytest.approx(4, abs=0.5)
    assert spread[1] < 1e-3 * 1.5 * ATOMS * KT


@pytest.mark.thorough
def test_an_ideal_gas_has_its_volume():
    """p(V) ~ V^N exp(-P V / kT): a gamma distribution.

    The thermostat is slower than the barostat: momenta that did not go against the cell would make the volume fluctuate too much.
    """
    numbers = settings(pressure=KT * (ATOMS + 1) / 1000.0, mobility=500.0, relaxation_time=40.0)
    middle = cell_rescaling(langevin, free_shape=False)
    _, volume = run(start(ideal_gas, numbers), numbers, middle, ideal_gas, 100_000, lambda s, _: jnp.linalg.det(s.cell))
    volume = np.array(volume[5000:])
    assert abs(volume.mean() - 1000.0) < CELL_SIGMA * standard_error(volume)
    square = (volume - 1000.0) ** 2
    assert abs(square.mean() - 1000.0**2 / (ATOMS + 1)) < CELL_SIGMA * standard_error(square)
    assert standard_error(volume) < 0.02 * 1000.0  # one degree of freedom more or less would be seen


@pytest.mark.thorough
def test_a_free_cell_on_springs_has_its_distribution():
    """p(h) ~ V^(N - 2) exp(-k tr(h h^T) / 2 kT), so that h h^T is a Wishart matrix of N + 1 degrees of freedom: both moments are known."""
    numbers = settings(mobility=0.4)
    middle = cell_rescaling(langevin, free_shape=True)
    begin = start(gas_in_sprung_cell, numbers, cell=np.sqrt((ATOMS + 1) * KT / SPRING))

    def seen(state, _):
        return jnp.sum(state.cell**2), jnp.linalg.det(state.cell) ** 2

    _, (trace, square) = run(begin, numbers, middle, gas_in_sprung_cell, 80_000, seen)
    trace, square, n, unit = np.array(trace[5000:]), np.array(square[5000:]), ATOMS + 1, KT / SPRING
    assert abs(trace.mean() - 3 * n * unit) < CELL_SIGMA * standard_error(trace)
    assert abs(square.mean() - n * (n - 1) * (n - 2) * unit**3) < CELL_SIGMA * standard_error(square)
    assert standard_error(trace) < 0.02 * 3 * n * unit  # one degree of freedom more or less would be seen


def test_noise_depends_on_seed_and_step_alone():
    numbers = settings()
    begin = start(springs, numbers)
    whole, _ = run(begin, numbers, langevin, springs, 16, total_energy)
    half, _ = run(begin, numbers, langevin, springs, 8, total_energy)
    other, _ = run(begin._replace(key=jax.random.PRNGKey(7)), numbers, langevin, springs, 16, total_energy)
    again, _ = run(half, numbers, langevin, springs, 8, total_energy)
    np.testing.assert_array_equal(whole.positions, again.positions)
    assert np.abs(whole.positions - other.positions).max() > 1e-3
