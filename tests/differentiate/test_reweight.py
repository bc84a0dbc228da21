"""Ensemble averages and their gradients from stored frames, and the radial distribution function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units

from macejax.data.read import from_atoms
from macejax.differentiate import sample
from macejax.differentiate.errors import DerivativeError
from macejax.differentiate.graph import window
from macejax.differentiate.rdf import radial_distribution, refuse_short
from macejax.differentiate.reweight import make_frames, refuse_few, reweight, value_and_gradient
from macejax.differentiate.sample import sampler
from macejax.potential import place
from macejax.simulate import Calculator
from tests.differentiate.small import assert_gradient, copper, mace, toy
from tests.simulate.toy import LATTICE

TEMPERATURE = 600.0


def frames_of(site_energy, model, number=6):
    """Not a sample of anything; identities hold for any frames."""
    structures = []
    for seed in range(number):
        atoms = copper(rattle=0.0)
        atoms.rattle(0.05, seed=seed)
        structures.append(from_atoms(atoms))
    return make_frames(site_energy, model.params, structures, model.config.elements, model.config.cutoff, TEMPERATURE)


def pressure_like(params, graph):
    """An observable that depends on the parameters too."""
    return {
        "square": jnp.sum(graph.nodes["positions"] ** 2),
        "depth": jax.tree.leaves(params)[0].ravel()[0] * graph.nodes["positions"][0, 0],
    }


@pytest.mark.parametrize("potential", [toy, pytest.param(mace, marks=pytest.mark.slow)], ids=["morse", "mace"])
def test_gradient_of_a_reweighted_average(potential):
    site_energy, model = potential()
    frames = frames_of(site_energy, model)

    def loss(params):
        average = reweight(site_energy, params, frames, pressure_like)
        return average.value["square"] + average.value["depth"] + average.effective

    params = jax.tree.map(lambda x: jnp.asarray(x) * 1.05, model.params)
    assert_gradient(loss, params, h=1e-3 if potential is mace else 1e-4)


def test_weights_are_boltzmann_factors_and_few_frames_are_refused():
    site_energy, model = toy()
    frames = frames_of(site_energy, model)
    averaged = jax.jit(lambda params: reweight(site_energy, params, frames, pressure_like))
    average = averaged(model.params)  # where the frames come from, all count alike
    np.testing.assert_allclose(average.weights, 1 / 6, rtol=1e-10)
    assert float(average.effective) == pytest.approx(6)
    np.testing.assert_allclose(average.value["square"], np.mean([np.sum(x**2) for x in frames.graphs.nodes["positions"]]), rtol=1e-10)

    softer = {**model.params, "a": model.params["a"] * 0.5}
    average = averaged(softer)
    change = np.array([energy_of(softer, frame) - energy_of(model.params, frame) for frame in range(6)])
    factors = np.exp(-(change - change.min()) / (units.kB * TEMPERATURE))
    np.testing.assert_allclose(average.weights, factors / factors.sum(), rtol=1e-8)
    w = factors / factors.sum()
    assert float(average.effective) == pytest.approx(np.exp(-np.sum(w * np.log(w))))
    dead = averaged({**model.params, "depth": model.params["depth"] * 1e4})
    assert float(dead.effective) == pytest.approx(1.0)  # all weights but one underflow, and nothing is NaN

    step = value_and_gradient(lambda value: value["square"], site_energy, pressure_like)
    with pytest.raises(DerivativeError, match="of 6 frames only"):
        step(softer, frames)
    value, gradient, _ = step(model.params, frames)
    assert np.isfinite(value) and all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient))
    with pytest.raises(DerivativeError):
        refuse_few(jnp.nan, 6)


def energy_of(params, seed) -> float:
    """The same frame through the calculator."""
    site_energy, model = toy()
    atoms = copper(rattle=0.0)
    atoms.rattle(0.05, seed=seed)
    return Calculator(model._replace(params=params), site_energy=site_energy).get_potential_energy(atoms)


def test_radial_distribution_of_a_perfect_gas_is_one_and_a_histogram_is_its_limit():
    rng = np.random.default_rng(0)
    length, width = 12.0, 0.05
    atoms = Atoms("Cu200", rng.uniform(0, length, (200, 3)), cell=[length] * 3, pbc=True)
    graph = window(from_atoms(atoms), (29,), 5.9, 0.0)
    radii = jnp.linspace(1.0, 5.5, 91)
    smooth = radial_distribution(graph, radii, width)
    assert float(jnp.mean(smooth)) == pytest.approx(1.0, abs=0.02)
    distances = atoms.get_all_distances(mic=True)[~np.eye(200, dtype=bool)]
    kernel = np.exp(-((np.asarray(radii)[:, None] - distances) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(smooth, kernel.sum(axis=1) * length**3 / 200**2 / (4 * np.pi * np.asarray(radii) ** 2), rtol=1e-8)


def test_radial_distribution_is_differentiable_and_needs_long_edges():
    _, model = toy()
    graph = window(from_atoms(copper()), model.config.elements, 5.0, 0.0)
    radii = jnp.linspace(2.0, 4.5, 10)
    assert_gradient(lambda x: jnp.sum(radial_distribution(place(graph, x), radii, 0.1) * radii), graph.nodes["positions"])
    refuse_short(5.0, radii, 0.1)
    with pytest.raises(ValueError, match="needs edges up to"):
        refuse_short(4.6, radii, 0.1)


def test_labels_of_the_start_are_not_those_of_sampled_frames():
    """Nor are what they weighed; what a model reads stays."""
    site_energy, model = toy()
    tensor, labels = np.eye(3), {"energy": 1.0, "forces": np.ones((2, 3)), "dipole": np.ones(3)}
    labels |= {"stress": tensor, "virials": -1000 * tensor, "polarizability": tensor, "weights": {"energy": 0.0}}
    crystal = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], cell=[10.0, 10.0, 10.0], pbc=True)
    start = from_atoms(crystal)._replace(total_charge=1.0, weight=2.0, **labels)
    draw = sampler(site_energy, model.config.elements, model.config.cutoff, temperature=TEMPERATURE, timestep=1.0, every=1)
    (frame,) = draw(model.params, start, 1, jax.random.key(0))
    assert np.isnan(frame.energy) and frame.weights == {} and all(getattr(frame, name) is None for name in labels if name[0] not in "ew")
    assert (frame.total_charge, frame.weight) == (1.0, 2.0)


def test_slots_of_a_sampler_grow_and_change_no_frame(monkeypatch):
    site_energy, model = toy()
    seen, frames = [], []

    def counting(params, vectors, graph):
        seen.append(vectors.shape[1])
        return site_energy(params, vectors, graph)

    for headroom in (2.0, 1.0):
        monkeypatch.setattr(sample, "HEADROOM", headroom)
        seen.clear()
        elements, cutoff = model.config.elements, model.config.cutoff
        draw = sampler(counting, elements, cutoff, temperature=TEMPERATURE, timestep=4.0, every=5)
        # The third shell is a little beyond the cutoff, and comes in.
        frames.append(draw(model.params, from_atoms(copper(a=1.02 * LATTICE, rattle=0)), 4, jax.random.key(0)))
    for one, other in zip(*frames, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-9, rtol=0)
    assert len(set(seen)) > 1


def test_a_lone_atom_is_sampled():
    site_energy, model = toy()
    draw = sampler(site_energy, model.config.elements, model.config.cutoff, temperature=TEMPERATURE, timestep=1.0, every=2)
    (frame,) = draw(model.params, from_atoms(Atoms("Cu", [[0.0, 0.0, 0.0]])), 1, jax.random.key(0))
    assert np.isfinite(frame.positions).all()


@pytest.mark.slow
def test_sampler_draws_from_the_canonical_ensemble():
    """Of two atoms on a stiff spring: the bond fluctuates by kT / k, and its mean energy is kT / 2 above the minimum."""
    stiffness, length = 2.0, 3.0  # eV/Angstrom^2, Angstrom

    def spring(params, vectors, graph):
        real = graph.edges["mask"].reshape(vectors.shape[:2])
        r = jnp.sqrt(jnp.where(real, jnp.sum(vectors**2, axis=-1), 1.0))
        return jnp.sum(jnp.where(real, params * (r - length) ** 2, 0), axis=1) / 4

    draw = sampler(spring, (29,), 5.0, temperature=TEMPERATURE, timestep=8.0, every=10, relaxation_time=50.0, skin=6.0)
    found = draw(stiffness, from_atoms(Atoms("Cu2", [[0, 0, 0], [0, 0, length]])), 600, jax.random.key(0))[20:]
    bonds = np.array([np.linalg.norm(frame.positions[0] - frame.positions[1]) for frame in found])
    kt = units.kB * TEMPERATURE
    assert np.var(bonds) == pytest.approx(kt / stiffness, rel=0.2)
    assert np.mean(bonds) == pytest.approx(length + 2 * kt / stiffness / length, abs=0.02)  # the volume element 4 pi r^2 stretches it
