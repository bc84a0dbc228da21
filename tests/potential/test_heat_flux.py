"""Heat flux: the time derivative of the energy's first moment, and of a crystal the same whatever cell describes it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk

from macejax.config import ModelConfig
from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.graph import build_graph
from macejax.data.read import from_atoms
from macejax.data.unfold import unfold
from macejax.model.geometry import edge_vectors
from macejax.model.model import build, init_model
from macejax.potential import edge_gradient, predict
from macejax.potential.heat_flux import EV, heat_flux

DIFFERENCE = 1e-6  # relative, against differences in time
SAME = 1e-11  # relative
ELEMENTS = (14, 32)


def config(layers: int) -> ModelConfig:
    return ModelConfig(
        elements=ELEMENTS, e0s=(0.0, 0.0), hidden_irreps="4x0e", l_max=1, correlation=2, radial_mlp=(8,), cutoff=3.0,
        num_interactions=layers, avg_num_neighbors=4.0,
    )  # fmt: skip


class Potential(NamedTuple):
    site_energy: Any
    params: Any
    config: ModelConfig
    flux: Any  # compiled


@pytest.fixture(scope="module", params=[1, 2])
def potential(request) -> Potential:
    made = config(request.param)
    site_energy = build(made).apply
    params = init_model(made, jax.random.key(3), np.float64).params
    return Potential(site_energy, params, made, jax.jit(lambda *arrays: heat_flux(site_energy, *arrays)))


def flux_of(potential: Potential, atoms: Atoms, velocities: np.ndarray):
    """By way of an unfolded cluster, all in batches of one shape."""
    made = potential.config
    unfolded = unfold(from_atoms(atoms), made.cutoff * made.num_interactions)
    graph = build_graph(unfolded.structure, ELEMENTS, made.cutoff)
    rows = batch([graph], Capacity(nodes=256, slots=12, graphs=2, species=2), np.float64)
    size = len(rows.nodes["mask"])
    velocity, mass = np.ones((size, 3)), np.ones(size)  # padding must not count, whatever it holds
    velocity[: len(unfolded.origin)], mass[: len(unfolded.origin)] = velocities[unfolded.origin], atoms.get_masses()[unfolded.origin]
    inside = np.arange(size) < unfolded.num_original
    return potential.flux(potential.params, rows, velocity, mass, inside)


def crystal() -> tuple[Atoms, np.ndarray]:
    """Two elements, off their sites, in a skew cell smaller than the cutoff."""
    atoms = bulk("Si", "diamond", a=5.3)
    atoms.symbols[1] = "Ge"
    atoms.set_cell(atoms.cell.array @ np.array([[1.03, 0.02, 0], [0, 0.97, 0.04], [0.01, 0, 1.0]]), scale_atoms=True)
    atoms.positions[1] += [0.1, -0.07, 0.05]
    return atoms, np.random.default_rng(0).normal(scale=0.01, size=(2, 3))


def test_of_a_cluster_it_is_the_derivative_of_the_first_moment(potential):
    site_energy, params, made, _ = potential
    rng = np.random.default_rng(1)
    atoms = Atoms("Si4Ge3", rng.uniform(0, 4.0, (7, 3)))
    velocities = rng.normal(scale=0.01, size=(7, 3))
    graph = build_graph(from_atoms(atoms), ELEMENTS, made.cutoff)
    rows = batch([graph], capacity_for([graph]), np.float64)
    masses = atoms.get_masses()
    center = rows.nodes["positions"][:7]

    @jax.jit
    def energies(positions):
        moved = rows._replace(nodes={**rows.nodes, "positions": positions})
        found = predict(site_energy, params, moved)
        return found.node_energy, found.forces

    acceleration = np.asarray(energies(center)[1])[:7] / masses[:, None] / EV

    def moment(time: float) -> np.ndarray:
        """sum r_i e_i after a step along the path that solves Newton's equation to second order."""
        positions = center + time * velocities + time**2 / 2 * acceleration
        velocity = velocities + time * acceleration
        energy = np.asarray(energies(positions)[0])[:7] + EV / 2 * masses * np.sum(velocity**2, axis=1)
        return energy @ positions

    # Central differences of two widths, extrapolated: the error is of fourth order in time.
    coarse, fine = ((moment(h) - moment(-h)) / (2 * h) for h in (0.2, 0.1))
    expected = (4 * fine - coarse) / 3
    found = flux_of(potential, atoms, velocities)
    np.testing.assert_allclose(found.potential, expected - found.convective, atol=DIFFERENCE * np.abs(found.potential).max())


def test_a_supercell_has_the_same_flux_density(potential):
    atoms, velocities = crystal()
    small = flux_of(potential, atoms, velocities)
    for repeat in ((2, 1, 1), (2, 2, 1)):
        number = int(np.prod(repeat))
        large = flux_of(potential, atoms.repeat(repeat), np.tile(velocities, (number, 1)))
        for one, other in zip(small, large, strict=True):
            np.testing.assert_allclose(np.asarray(other) / number, one, atol=SAME * np.abs(one).max())


def test_where_atoms_are_said_to_be_does_not_matter(potential):
    """All moved together, out of the cell; one atom named by another of its images."""
    atoms, velocities = crystal()
    before = flux_of(potential, atoms, velocities)
    shifted, renamed = atoms.copy(), atoms.copy()
    shifted.positions += [7.3, -11.2, 0.4]
    renamed.positions[1] += np.array([2, -1, 3]) @ atoms.cell.array
    for other in (shifted, renamed):
        found = flux_of(potential, other, velocities)
        np.testing.assert_allclose(found.total, before.total, atol=SAME * np.abs(before.total).max())


@pytest.mark.thorough
def test_edge_gradients_give_it_for_one_layer_only(potential):
    """Of one layer, J = - sum_i sum_m r_im (g_im . v_sender). With messages that misses what passes through an atom."""
    site_energy, params, made, _ = potential
    atoms, velocities = crystal()
    graph = build_graph(from_atoms(atoms), ELEMENTS, made.cutoff)
    rows = batch([graph], capacity_for([graph]), np.float64)
    _, gradient = edge_gradient(site_energy, params, rows)
    padded = np.zeros((len(rows.nodes["mask"]), 3))
    padded[:2] = velocities
    power = jnp.sum(gradient * padded[rows.senders].reshape(gradient.shape), axis=-1)
    local = -jnp.einsum("nm,nma->a", power, edge_vectors(rows))
    full = flux_of(potential, atoms, velocities).potential
    gap = np.abs(full - local).max() / np.abs(full).max()
    assert gap < SAME if made.num_interactions == 1 else gap > 1e5 * SAME


def test_unfolding_finds_every_image():
    atoms, _ = crystal()
    found = unfold(from_atoms(atoms), 4.0)
    every = atoms.repeat((9, 9, 9)).positions - 4 * atoms.cell.array.sum(axis=0)
    near = np.linalg.norm(every[:, None] - atoms.positions, axis=-1).min(axis=1) < 4.0
    assert len(found.origin) == near.sum() and found.num_original == 2
    np.testing.assert_array_equal(found.structure.positions[:2], atoms.positions)
    slab = Atoms("Si", cell=[2.0, 2.0, 0], pbc=(True, True, False))
    assert len(unfold(from_atoms(slab), 2.1).origin) == 5
    assert len(unfold(from_atoms(Atoms("Si2", [[0, 0, 0], [0, 0, 1.0]])), 5.0).origin) == 2


def test_the_unit_of_kinetic_energy():
    assert EV == pytest.approx(1 / units.fs**2, rel=1e-6)
