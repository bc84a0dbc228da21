"""Elastic constants: symmetry, finite differences of stress, and the differentiability of it all."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS

from macejax.differentiate.crystal import equilibrium_scale, free_cell
from macejax.differentiate.implicit import stationary_point
from macejax.potential import deform, place, voigt_strain
from macejax.properties.elastic import elastic_tensor, moduli
from tests.differentiate.small import assert_gradient, toy
from tests.properties.crystal import calculator, elastic, padded

DIFFERENCE = 1e-5  # relative to the largest constant


@functools.cache
def relaxed_hcp():
    """Two atoms that symmetry does not hold against every strain; and the graph in which nothing pulls."""
    site_energy, model = toy()
    atoms = bulk("Cu", "hcp", a=2.31, c=3.77)
    graph = padded(atoms)
    near = {"strain": jnp.zeros(6), "displacements": jnp.zeros((3, 3))}
    x, residual = jax.jit(lambda params: stationary_point(free_cell(site_energy, graph), params, near))(model.params)
    assert float(residual) < 1e-10
    graph = deform(place(graph, graph.nodes["positions"] + x["displacements"]), voigt_strain(x["strain"]))
    return graph, Atoms(atoms.numbers, np.asarray(graph.nodes["positions"])[:2], cell=np.asarray(graph.globals["cell"][0]), pbc=True)


@pytest.mark.parametrize("relax", [pytest.param(False, marks=pytest.mark.thorough), True], ids=["clamped", "relaxed"])
def test_finite_differences_of_stress(relax):
    graph, atoms = relaxed_hcp()
    found = elastic(graph)
    own = calculator()
    tensor = np.asarray(found.relaxed if relax else found.clamped)
    largest = np.abs(tensor).max()
    assert np.abs(found.stress).max() < 1e-10 and float(found.softest) > 0.1
    for column in (0, 2, 3, 5):
        difference = np.zeros(6)
        for steps, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            h = 1e-3
            strained = atoms.copy()
            strain = np.asarray(voigt_strain(jnp.asarray(np.eye(6)[column] * h * steps)))
            strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            strained.calc = own
            if relax:
                assert BFGS(strained, logfile=None).run(fmax=1e-7, steps=300)
            difference += weight * strained.get_stress() / (12 * h)
        np.testing.assert_allclose(tensor[:, column], difference, atol=DIFFERENCE * largest)


def test_ions_that_relax_soften_the_crystal():
    found = elastic(relaxed_hcp()[0])
    softening = np.asarray(found.clamped - found.relaxed)
    assert np.linalg.eigvalsh(softening).min() > -1e-12 and softening.max() > 0.01 * np.abs(found.clamped).max()
    bulk_modulus = moduli(found.relaxed)
    assert float(bulk_modulus.bulk_bounds[0]) <= float(bulk_modulus.bulk) <= float(bulk_modulus.bulk_bounds[1])
    assert float(bulk_modulus.shear_bounds[0]) < float(bulk_modulus.shear) < float(bulk_modulus.shear_bounds[1])
    # Of an isotropic solid there is but one answer.
    lame, shear = 0.5, 0.3
    isotropic = np.diag([2 * shear] * 3 + [shear] * 3).astype(float)
    isotropic[:3, :3] += lame
    found = moduli(jnp.asarray(isotropic))
    np.testing.assert_allclose([found.bulk, *found.bulk_bounds], lame + 2 * shear / 3, rtol=1e-12)
    np.testing.assert_allclose([found.shear, *found.shear_bounds], shear, rtol=1e-12)
    np.testing.assert_allclose([found.young, found.poisson], [shear * (3 * lame + 2 * shear) / (lame + shear), lame / 2 / (lame + shear)])


def test_cubic_crystal_of_pairs():
    """Cubic symmetry, and Cauchy's relation C12 = C44, which central forces imply where atoms are centres of symmetry and nothing pulls."""
    site_energy, model = toy()
    graph = padded(bulk("Cu", a=3.25))
    scale, _ = jax.jit(lambda: equilibrium_scale(site_energy, model.params, graph))()
    found = elastic(deform(graph, (scale - 1) * jnp.eye(3)))
    tensor = np.asarray(found.relaxed)
    c11, c12, c44 = tensor[0, 0], tensor[0, 1], tensor[3, 3]
    expected = np.diag([c11 - c12] * 3 + [c44] * 3)
    expected[:3, :3] += c12
    np.testing.assert_allclose(tensor, expected, atol=1e-10)
    np.testing.assert_allclose(found.clamped, expected, atol=1e-10)
    assert c12 == pytest.approx(c44, abs=1e-10) and c11 > c12 > 0
    assert np.abs(found.stress).max() < 1e-10


@pytest.mark.slow
def test_differentiable_by_the_parameters():
    """With the relaxed lattice, and with ions that relax."""
    site_energy, model = toy()
    graph, _ = relaxed_hcp()
    near = {"strain": jnp.zeros(6), "displacements": jnp.zeros((3, 3))}

    def constant(params):
        x, _ = stationary_point(free_cell(site_energy, graph), params, near)
        relaxed = deform(place(graph, graph.nodes["positions"] + x["displacements"]), voigt_strain(x["strain"]))
        found = elastic_tensor(site_energy, params, relaxed)
        return found.relaxed[0, 0] - 0.3 * found.relaxed[0, 1] + moduli(found.relaxed).shear

    assert_gradient(constant, model.params)
