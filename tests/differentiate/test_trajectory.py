"""Derivatives through simulations: against finite differences, in little memory, and refused where the edges ran out."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from macejax.data.batch import Capacity, batch
from macejax.data.graph import build_graph
from macejax.differentiate.checkpoint import checkpointed_scan
from macejax.differentiate.errors import DerivativeError
from macejax.differentiate.graph import atomic_masses, window
from macejax.differentiate.trajectory import Near, check, kinetic_energy, langevin, maxwell_boltzmann, nve, simulate, start
from macejax.simulate import Calculator
from tests.differentiate.small import along, assert_gradient, copper, copper_structure, mace, toy
from tests.marks import rest_is_thorough

SKIN = 1.0  # Angstrom
SAME = 1e-12


def prepared(model, skin=SKIN, temperature=300.0):
    """Batch, masses, and velocities [N, 3]."""
    graph = window(copper_structure(), model.config.elements, model.config.cutoff, skin)
    masses = atomic_masses(graph, model.config.elements)
    return graph, masses, maxwell_boltzmann(jax.random.key(3), masses, graph.nodes["mask"], temperature)


def run(site_energy, params, graph, step, velocities, steps, **options):
    return simulate(site_energy, params, graph, step, start(site_energy, params, graph, velocities), steps, **options)


def test_nve_is_velocity_verlet():
    """Against ASE's own integrator, over masses, units and images; and with ASE's kinetic energy."""
    site_energy, model = toy()
    graph, masses, velocities = prepared(model)
    end = check(jax.jit(lambda: run(site_energy, model.params, graph, nve(masses, 2.0), velocities, 20))(), SKIN)
    atoms = copper()
    atoms.calc = Calculator(model, site_energy=site_energy)
    atoms.set_velocities(np.asarray(velocities) / units.fs)
    first = atoms.positions.copy()
    VelocityVerlet(atoms, 2.0 * units.fs).run(20)
    np.testing.assert_allclose(end.last.positions - graph.nodes["positions"], atoms.positions - first, atol=1e-11)
    np.testing.assert_allclose(kinetic_energy(end.last, masses), atoms.get_kinetic_energy(), rtol=1e-9)
    assert np.abs(atoms.positions - first).max() > 0.05


@pytest.mark.parametrize("potential", rest_is_thorough([toy, mace], [toy]))
def test_edges_beyond_the_cutoff_are_left_out_and_nothing_changes(potential):
    """Positions and gradient by parameters; in rows that are too short an atom is noticed, and nothing is finite."""
    site_energy, model = potential()
    graph, masses, velocities = prepared(model, skin=2.0)

    def end(params, near):
        return run(site_energy, params, graph, nve(masses, 2.0), velocities, 6, near=near)

    def loss(params, near):
        return jnp.sum(along(graph.nodes["positions"], 5) * end(params, near).last.positions)

    near = Near(model.config.cutoff, graph.edges["mask"].size // len(masses) - 4)
    params = jax.tree.map(jnp.asarray, model.params)
    (all_edges, pruned), (one, other) = ([jax.jit(f, static_argnums=1)(params, n) for n in (None, near)] for f in (end, jax.grad(loss)))
    np.testing.assert_allclose(pruned.last.positions, all_edges.last.positions, atol=SAME, rtol=0)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=SAME), other, one)
    assert all_edges.crowd == 0 < check(pruned, 2.0, near).crowd < near.slots
    few = near._replace(slots=4)
    short = jax.jit(end, static_argnums=1)(params, few)
    assert not short.finite and short.crowd > 4
    with pytest.raises(DerivativeError, match="more than the 4 slots of `near`"):
        check(short, 2.0, few)
    # The forces of a last step make no positions, which are finite here.
    once = jax.jit(lambda: run(site_energy, params, graph, nve(masses, 2.0), velocities, 1, near=few))()
    assert np.isfinite(once.last.positions).all() and not once.finite


def test_langevin_reaches_its_temperature():
    site_energy, model = toy()
    graph, masses, velocities = prepared(model, temperature=0.0)
    step = langevin(masses, graph.nodes["mask"], 4.0, 50.0, relaxation_time=100.0)
    observe = lambda state: kinetic_energy(state, masses)  # noqa: E731
    found = check(
        jax.jit(lambda: run(site_energy, model.params, graph, step, velocities, 4000, key=jax.random.key(0), observe=observe))(), SKIN
    )
    temperature = 2 * found.observed[500:].mean() / (3 * len(masses) * units.kB)
    assert float(temperature) == pytest.approx(50.0, rel=0.1)


@pytest.mark.parametrize("potential", rest_is_thorough([toy, mace], [toy]))
def test_gradient_by_parameters_through_nve(potential):
    site_energy, model = potential()
    graph, masses, velocities = prepared(model)
    goal = along(graph.nodes["positions"], 5)

    def loss(params):
        end = run(site_energy, params, graph, nve(masses, 2.0), velocities, 12)
        return jnp.sum(goal * end.last.positions) + kinetic_energy(end.last, masses)

    assert_gradient(loss, jax.tree.map(jnp.asarray, model.params), h=1e-4 if potential is toy else 1e-3)


@pytest.mark.thorough
def test_gradient_through_langevin_by_parameters_temperature_and_start():
    site_energy, model = toy()
    graph, masses, velocities = prepared(model)
    goal = along(graph.nodes["positions"], 5)

    def loss(inputs):
        params, temperature, velocities = inputs
        step = langevin(masses, graph.nodes["mask"], 2.0, 100 * temperature, relaxation_time=50.0)
        end = run(site_energy, params, graph, step, 0.01 * velocities, 24, key=jax.random.key(7), every=4, observe=lambda s: s.positions)
        return jnp.sum(goal * end.observed)

    assert_gradient(loss, (model.params, jnp.asarray(3.0), velocities * 100))


@pytest.mark.parametrize(("steps", "segment"), [(12, None), (13, None), (7, 3), (5, 9), (1, 1)])
def test_checkpointed_scan_is_scan(steps, segment):
    xs = jnp.linspace(0.1, 1.0, steps)

    def body(carry, x):
        carry = jnp.sin(carry) + x * carry
        return carry, {"y": carry**2, "none": None}

    def total(scan, carry):
        last, ys = scan(body, carry, xs)
        return jnp.sum(last) + jnp.sum(ys["y"] * jnp.arange(1, steps + 1)[:, None])

    ours = jax.value_and_grad(lambda carry: total(lambda *a: checkpointed_scan(*a, segment=segment), carry))
    plain = jax.value_and_grad(lambda carry: total(jax.lax.scan, carry))
    start = jnp.array([0.3, 0.5])
    np.testing.assert_allclose(ours(start)[0], plain(start)[0], rtol=SAME)
    np.testing.assert_allclose(ours(start)[1], plain(start)[1], rtol=SAME)


def test_memory_grows_as_the_square_root_of_the_steps():
    """What the compiled gradient needs: 64 times the steps take as many more states as the roots of the numbers of steps differ."""
    site_energy, model = toy()
    graph, masses, velocities = prepared(model)

    def memory(steps):
        def loss(params):
            return jnp.sum(run(site_energy, params, graph, nve(masses, 1.0), velocities, steps).last.positions ** 2)

        return jax.jit(jax.grad(loss)).lower(model.params).compile().memory_analysis().temp_size_in_bytes

    short, long = memory(256), memory(16384)
    state = 3 * 8 * graph.nodes["positions"].size  # bytes
    assert long < short + 4 * state * (np.sqrt(16384) - np.sqrt(256))
    assert long < short + 16384 * state / 20  # what a plain scan needs is more than 16384 states


def test_edges_that_ran_out_are_reported():
    site_energy, model = toy()
    graph, masses, velocities = prepared(model, skin=0.1, temperature=2000.0)
    go = jax.jit(lambda velocities: run(site_energy, model.params, graph, nve(masses, 2.0), velocities, 20))
    with pytest.raises(DerivativeError, match="half of the skin"):
        check(go(velocities), 0.1)
    with pytest.raises(DerivativeError, match="not finite"):
        check(go(velocities * jnp.inf), 0.1)
    drift = 0.1 * graph.nodes["mask"][:, None]  # common to all: no edge changes
    still = go(0 * velocities)
    drifted = go(0 * velocities + drift)
    np.testing.assert_allclose(drifted.farthest, still.farthest, atol=SAME)
    np.testing.assert_allclose(drifted.last.positions - still.last.positions, 20 * 2.0 * drift * np.ones(3), atol=SAME)


def test_padding_stays_at_rest_and_changes_nothing():
    site_energy, model = toy()
    graph, masses, velocities = prepared(model)
    found = build_graph(copper_structure(), model.config.elements, model.config.cutoff + SKIN)
    padded = jax.tree.map(jnp.asarray, batch([found], Capacity(7, 84, 2, 1), np.float64))
    heavy, mask = atomic_masses(padded, model.config.elements), padded.nodes["mask"]
    fast = jnp.zeros((7, 3)).at[:4].set(velocities)
    assert not np.any(maxwell_boltzmann(jax.random.key(0), heavy, mask, 300.0)[4:])
    cold = langevin(heavy, mask, 2.0, 1e-30, relaxation_time=1e30)  # with neither noise nor friction it is velocity Verlet
    end = jax.jit(lambda: run(site_energy, model.params, padded, cold, fast, 3, key=jax.random.key(1)))()
    assert not np.any(end.last.positions[4:]) and not np.any(end.last.velocities[4:])
    plain = jax.jit(lambda: run(site_energy, model.params, graph, nve(masses, 2.0), velocities, 3))()
    np.testing.assert_allclose(end.last.positions[:4], plain.last.positions, atol=1e-11)


def test_wrong_options_are_refused():
    site_energy, model = toy()
    graph, masses, velocities = prepared(model)
    with pytest.raises(ValueError, match="multiple of every"):
        run(site_energy, model.params, graph, nve(masses, 1.0), velocities, 10, every=3)
    with pytest.raises(ValueError, match="random numbers: give a key"):
        run(site_energy, model.params, graph, langevin(masses, graph.nodes["mask"], 1.0, 300.0), velocities, 2)
    with pytest.raises(ValueError, match="skin"):
        window(copper_structure(), model.config.elements, 3.0, -1.0)


@pytest.mark.x32
def test_in_single_precision():
    site_energy, model = toy()
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), model.params)
    graph = window(copper_structure(), model.config.elements, model.config.cutoff, SKIN, np.float32)
    masses = atomic_masses(graph, model.config.elements)
    velocities = maxwell_boltzmann(jax.random.key(3), masses, graph.nodes["mask"], 300.0)
    step = langevin(masses, graph.nodes["mask"], 2.0, 300.0)

    def loss(params):
        end = run(site_energy, params, graph, step, velocities, 6, key=jax.random.key(4))
        return jnp.sum(end.last.positions**2), end

    (_, end), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert end.last.positions.dtype == end.last.velocities.dtype == gradient["a"].dtype == jnp.float32
    assert all(np.isfinite(leaf) and leaf != 0 for leaf in jax.tree.leaves(gradient))
