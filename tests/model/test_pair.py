"""Pair terms: right, smooth, and finite with all derivatives where there is no pair, or where atoms coincide."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones

from macejax.config import ModelConfig
from macejax.data.batch import Capacity, batch
from macejax.data.graph import build_graph
from macejax.data.read import from_atoms
from macejax.model.edges import repulsion
from macejax.model.geometry import edge_vectors
from macejax.model.model import build
from macejax.model.pair import CORE, add, lennard_jones, screened_repulsion
from macejax.potential import place, predict
from macejax.simulate import Calculator
from tests.differentiate.small import mace
from tests.simulate.toy import toy_model

ELEMENTS = (1, 8, 29)
PARAMS = {"epsilon": jnp.array([0.1, 0.2, 0.3]), "sigma": jnp.array([2.0, 2.4, 2.2])}


def graph_of(atoms, cutoff=5.0, dtype=np.float64):
    graph = build_graph(from_atoms(atoms), ELEMENTS, cutoff)
    return jax.tree.map(jnp.asarray, batch([graph], Capacity(len(atoms) + 2, 8 * max(1, len(atoms)), 3, 3), dtype))


@partial(jax.jit, static_argnums=0)
def total(function, params, graph):
    return jnp.sum(function(params, edge_vectors(graph), graph))


def test_equal_to_ase_below_the_onset():
    atoms = Atoms("Cu3", [[0, 0, 0], [2.3, 0.2, 0], [0.1, 2.6, 0.4]])
    atoms.calc = LennardJones(sigma=2.2, epsilon=0.3, rc=50.0)
    found = jax.jit(partial(predict, lennard_jones(5.0, 4.5)))(PARAMS, graph_of(atoms))
    offset = 3 * 4 * 0.3 * ((2.2 / 50) ** 12 - (2.2 / 50) ** 6)  # ASE shifts each pair to zero at its cutoff
    assert float(found.energy[0]) == pytest.approx(atoms.get_potential_energy() + offset, abs=1e-12)
    np.testing.assert_allclose(found.forces[:3], atoms.get_forces(), atol=1e-12)


def test_elements_mix_by_lorentz_and_berthelot():
    function, r = lennard_jones(5.0), 2.5
    ratio = ((2.0 + 2.4) / 2 / r) ** 6
    expected = 4 * np.sqrt(0.1 * 0.2) * (ratio**2 - ratio)
    different, alike = (graph_of(Atoms(names, [[0, 0, 0], [0, 0, r]])) for names in ("HO", "Cu2"))
    assert float(total(function, PARAMS, different)) == pytest.approx(expected, rel=1e-12)
    assert float(total(function, {"epsilon": 0.3, "sigma": 2.2}, different)) == pytest.approx(float(total(function, PARAMS, alike)))
    assert np.isnan(total(function, {"epsilon": jnp.ones(2), "sigma": jnp.ones(2)}, alike))  # never another element's numbers


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_every_derivative_is_finite(dtype):
    """Where jax-md's derivatives by epsilon and sigma are NaN: on padded slots, and at r = 0. To third order."""
    function = lennard_jones(5.0)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), PARAMS)
    graph = graph_of(Atoms("HCuO", [[0, 0, 0], [0, 0, 1.0], [0, 2.0, 0]]), dtype=dtype)

    @jax.jit
    def derivatives(x):
        moved = place(graph, graph.nodes["positions"].at[1].set(graph.nodes["positions"][0] + x * jnp.array([0, 0, 1], dtype)))

        def of(params, positions):
            return jnp.sum(predict(function, params, place(moved, positions)).node_energy)

        once = jax.grad(of, (0, 1))
        twice = jax.grad(lambda p, v: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(once(p, v))), (0, 1))
        at = (params, moved.nodes["positions"])
        return once(*at), twice(*at), jax.jvp(twice, at, at)[1]

    for r in (0.0, 1e-9, 1e-3, 0.3, 2.0, 4.5, 5.0 - 1e-9):
        for leaf in jax.tree.leaves(derivatives(jnp.asarray(r, dtype))):
            assert np.isfinite(leaf).all(), r


def test_elements_without_size_feel_nothing():
    """No energy and no force, not NaN; beside others of the mean size."""
    function, params = lennard_jones(5.0), {"epsilon": jnp.array([0.0, 0.2, 0.3]), "sigma": jnp.array([0.0, 2.4, 2.2])}
    for names, size in (("H2", 0.0), ("HO", 0.0), ("O2", 2.4)):
        graph = graph_of(Atoms(names, [[0, 0, 0], [0, 0, 2.9]]))
        gradient = jax.jit(jax.grad(lambda p, graph=graph: total(function, p, graph)))(params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        forces = jax.jit(partial(predict, function))(params, graph).forces[:2]
        assert np.isfinite(forces).all() and (np.abs(forces).max() > 0) == (size > 0)


def test_smooth_at_core_onset_and_cutoff():
    function = lennard_jones(5.0, 4.0)
    graph = graph_of(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0]]))
    vectors = edge_vectors(graph)

    def of(r):
        return jnp.sum(function(PARAMS, vectors / 2.0 * r, graph))

    curve = jax.jit(lambda r: jnp.stack([of(r), jax.grad(of)(r), jax.grad(jax.grad(of))(r)]))
    for radius in (CORE * 2.2, 4.0, 5.0):
        np.testing.assert_allclose(curve(radius - 1e-9), curve(radius + 1e-9), rtol=1e-6, atol=1e-7)
    assert curve(5.0)[0] == 0 and curve(3.99)[0] < 0
    with pytest.raises(ValueError, match="onset"):
        lennard_jones(5.0, 6.0)


def test_sum_with_a_mace_and_repulsion():
    """A MACE that was built without repulsion, plus ZBL as a term of its own, is the MACE that was built with it."""
    whole, model = mace()
    plain = build(model.config.model_copy(update={"pair_repulsion": False})).apply
    together = add(plain, screened_repulsion(ELEMENTS, model.config.cutoff_power))
    graph = graph_of(Atoms("HOCu", [[0, 0, 0], [0, 0, 0.7], [0.2, 1.1, 0]]), model.config.cutoff)
    strength = {"strength": jnp.asarray(model.config.scale)}  # ScaleShiftMACE scales its repulsion too, as mace-torch's does

    @jax.jit
    def both(params):
        slope = jax.grad(lambda s: total(together, (params, {"strength": s}), graph))(strength["strength"])
        return predict(whole, params, graph), predict(together, (params, strength), graph), slope

    one, sum_of_two, slope = both(model.params)
    np.testing.assert_allclose(sum_of_two.forces, one.forces, atol=1e-10)
    np.testing.assert_allclose(sum_of_two.energy, one.energy, atol=1e-10)
    assert np.isfinite(slope) and float(slope) > 0
    with pytest.raises(ValueError, match="as many sets"):
        total(together, (model.params,), graph)


@pytest.mark.parametrize("reach", [2.0, 2.5])
def test_repulsion_of_a_model_ends_at_its_cutoff_whatever_the_list(reach):
    """The covalent radii of caesium add to 4.9 Angstrom."""
    config = ModelConfig(elements=(55,), e0s=(0.0,), cutoff=2.0, hidden_irreps="2x0e", pair_repulsion=True)
    found = []
    for distance in (1.9, 2.2):
        graph = build_graph(from_atoms(Atoms("Cs2", [[0, 0, 0], [0, 0, distance]])), config.elements, reach)
        rows = batch([graph], Capacity(3, 4, 2, 1), np.float64)
        found.append(float(jnp.sum(repulsion(edge_vectors(rows), rows, config))))
    assert found[0] > 1e-3 and found[1] == 0


def test_in_the_calculator():
    """The Hessian of two atoms is the second derivative of the curve."""
    atoms = Atoms("CuO", [[0, 0, 0], [0, 0, 2.4]])
    atoms.calc = Calculator(toy_model()._replace(params=PARAMS), site_energy=lennard_jones(4.0))
    ratio = ((2.2 + 2.4) / 2 / 2.4) ** 6
    depth = np.sqrt(0.2 * 0.3)
    assert atoms.get_forces()[1, 2] == pytest.approx(4 * depth * (12 * ratio**2 - 6 * ratio) / 2.4, rel=1e-12)
    curvature = 4 * depth * (156 * ratio**2 - 42 * ratio) / 2.4**2
    assert atoms.calc.get_hessian(atoms).reshape(6, 6)[5, 5] == pytest.approx(curvature, rel=1e-12)
