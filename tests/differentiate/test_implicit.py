"""Derivatives of what is at rest, against finite differences of relaxations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from macejax.data.read import from_atoms
from macejax.differentiate.crystal import barrier, bulk_modulus, equilibrium_scale, free_cell, free_positions
from macejax.differentiate.errors import DerivativeError
from macejax.differentiate.graph import window
from macejax.differentiate.implicit import conjugate_gradient, dense, refuse_unsettled, stationary_point
from macejax.simulate import Calculator
from tests.differentiate.small import along, assert_gradient, copper, mace, toy
from tests.simulate.toy import LATTICE

SETTLED = 1e-10  # eV/Angstrom


def graph_of(atoms, model, skin=1.0):
    return window(from_atoms(atoms), model.config.elements, model.config.cutoff, skin)


@pytest.mark.slow
@pytest.mark.parametrize("solve", [conjugate_gradient(), dense()], ids=["cg", "dense"])
def test_positions_and_cell_of_a_relaxed_crystal(solve):
    """Of a crystal that has a vacancy, by which atoms leave their sites: both they and all six strains respond."""
    site_energy, model = toy()
    atoms = bulk("Cu", a=3.3) * (2, 2, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.eye(3)[[1, 0, 2]]), scale_atoms=True)
    del atoms[0]
    atoms.calc = Calculator(model, site_energy=site_energy)
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02)
    graph = graph_of(atoms, model)
    of = free_cell(site_energy, graph)
    near = {"strain": jnp.zeros(6), "displacements": jnp.zeros((3, 3))}
    weights = along(near, 2)

    def loss(params):
        x, residual = stationary_point(of, params, near, linear_solve=solve, newton_steps=5)
        r = graph.nodes["positions"] + x["displacements"]
        r = r - r.mean(axis=0)  # a shift of the whole is anyone's choice
        return jnp.sum(weights["strain"] * x["strain"]) + jnp.sum(weights["displacements"] * r), residual

    refuse_unsettled(assert_gradient(loss, model.params, has_aux=True)[1], SETTLED)


@pytest.mark.slow
def test_a_molecule_turns_freely_and_is_differentiated_nonetheless():
    """With a MACE: six directions without any curvature; what is asked is a distance, which does not see them."""
    site_energy, model = mace()
    atoms = molecule("H2O")
    atoms.calc = Calculator(model)
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    graph = graph_of(atoms, model)
    of = free_positions(site_energy, graph)
    start = graph.nodes["positions"]

    def loss(params):
        x, residual = stationary_point(of, params, jnp.zeros_like(start), newton_steps=4, linear_solve=dense())
        r = start + x
        return jnp.linalg.norm(r[1] - r[2]) + jnp.linalg.norm(r[0] - r[1]), residual

    refuse_unsettled(assert_gradient(loss, jax.tree.map(jnp.asarray, model.params), has_aux=True)[1], SETTLED)


def test_lattice_constant_and_bulk_modulus():
    site_energy, model = toy()
    graph = graph_of(bulk("Cu", a=3.2), model)

    def both(params):
        scale, residual = equilibrium_scale(site_energy, params, graph, near=0.01)
        modulus = bulk_modulus(site_energy, params, graph, scale)
        return 0.7 * scale + modulus, (scale * 3.2, modulus, residual)

    _, (a, modulus, residual) = assert_gradient(both, model.params, has_aux=True)
    refuse_unsettled(residual, SETTLED)
    assert float(a) == pytest.approx(LATTICE, abs=1e-3)
    energies = []
    atoms = bulk("Cu", a=float(a))
    calculator = Calculator(model, site_energy=site_energy)
    for h in (-1, 0, 1):
        strained = bulk("Cu", a=float(a) * (1 + h * 1e-3) ** (1 / 3))
        strained.calc = calculator
        energies.append(strained.get_potential_energy())
    assert float(modulus) == pytest.approx((energies[0] - 2 * energies[1] + energies[2]) / (1e-6 * atoms.get_volume()), rel=1e-4)


def hop():
    """The barrier, by the parameters, of an atom between two that are held. It sits at either; the middle is the saddle."""
    site_energy, model = toy()
    ends = Atoms("Cu3", [[0, 0, 0], [2.5, 0, 0], [6.4, 0, 0]])
    middle = ends.copy()
    middle.positions[1, 0] = 3.2
    graphs = [graph_of(atoms, model, 2.0) for atoms in (ends, middle)]
    return lambda params: barrier(site_energy, params, *graphs, free=jnp.array([False, True, False])), model.params


@pytest.mark.thorough
def test_barrier_of_a_hop():
    height, params = hop()
    value, residual = assert_gradient(height, params, has_aux=True)
    refuse_unsettled(residual, SETTLED)
    assert 0.01 < float(value)


@pytest.mark.slow
def test_second_derivative_of_a_barrier():
    """It asks for the derivatives of the two points, which the first does not."""
    height, params = hop()
    assert_gradient(lambda params: jax.grad(lambda p: height(p)[0])(params)["a"], params)


def test_what_is_not_settled_is_refused():
    site_energy, model = toy()
    graph = graph_of(copper(), model)
    of = free_positions(site_energy, graph)
    _, residual = stationary_point(of, model.params, jnp.zeros((4, 3)), newton_steps=0)
    with pytest.raises(DerivativeError, match="not stationary"):
        refuse_unsettled(residual)
    with pytest.raises(DerivativeError, match="not stationary"):
        refuse_unsettled(jnp.nan)
