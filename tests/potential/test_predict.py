"""Derivatives of the energy: against plain differentiation and finite differences, finite on padding to third order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.config import LossConfig, ModelConfig
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graph
from macejax.model.geometry import edge_vectors
from macejax.model.mace import INTERACTIONS
from macejax.model.model import build, init_model
from macejax.ops import blocks
from macejax.potential import atomic_virials, edge_gradient, hessian, hessian_vector_product, predict
from macejax.train.loss import loss_terms
from macejax.train.step import loss_and_gradient
from tests.ops.programs import scatters
from tests.structures import structure

ELEMENTS = (1, 6, 8, 14, 29)
CONFIG = ModelConfig(
    elements=ELEMENTS, e0s=(0.0,) * 5, hidden_irreps="4x0e+4x1o", l_max=2, correlation=2, radial_mlp=(8,), cutoff=3.0,
    interaction_first="RealAgnostic"
)  # fmt: skip
SINGLE_PRECISION = 1e-3  # of Hessian-vector products in float32, of their rms
SITE_ENERGY = build(CONFIG).apply


@pytest.fixture(scope="module")
def params():
    return init_model(CONFIG, jax.random.key(0), jnp.float64).params


@pytest.fixture(scope="module")
def graph():
    """A molecule without a cell, a small crystal, a one-atom cell smaller than the cutoff; padding of every kind."""
    graphs = [build_graph(structure(name), ELEMENTS, CONFIG.cutoff) for name in ("water", "silicon2", "copper1")]
    return batch(graphs, capacity_for(graphs, growth=1.3), np.float64)


def strained(graph, strain):
    """Positions and cells of every structure under a strain [G, 3, 3]."""
    positions = graph.nodes["positions"]
    per_node = strain[graph.nodes["graph"]]
    return graph._replace(
        nodes={**graph.nodes, "positions": positions + jnp.einsum("na,nab->nb", positions, per_node)},
        globals={**graph.globals, "cell": graph.globals["cell"] + jnp.einsum("gia,gab->gib", graph.globals["cell"], strain)},
    )


def total_energy(params, graph):
    return jnp.sum(SITE_ENERGY(params, edge_vectors(graph), graph))


def test_forces_and_strain_derivative_equal_plain_differentiation(params, graph):
    found = jax.jit(lambda p, g: predict(SITE_ENERGY, p, g))(params, graph)

    def energy(positions, strain):
        moved = graph._replace(nodes={**graph.nodes, "positions": positions})
        return total_energy(params, strained(moved, (strain + jnp.swapaxes(strain, 1, 2)) / 2))

    zero = jnp.zeros_like(graph.globals["cell"])
    gradient, strain = jax.jit(jax.grad(energy, argnums=(0, 1)))(jnp.asarray(graph.nodes["positions"]), zero)
    np.testing.assert_allclose(found.forces, -gradient, atol=1e-12)
    np.testing.assert_allclose(found.strain_derivative, strain, atol=1e-12)
    np.testing.assert_allclose(found.energy[:3].sum(), total_energy(params, graph), rtol=1e-12)
    assert np.abs(found.forces).max() > 0.01 and (found.forces[~graph.nodes["mask"]] == 0).all()


def test_stress_is_the_strain_derivative_per_volume_and_nan_without_one(params, graph):
    found = jax.jit(lambda p, g: predict(SITE_ENERGY, p, g))(params, graph)
    assert np.isnan(found.stress[0]).all() and np.isfinite(found.stress[1:]).all()
    for g in (1, 2):
        np.testing.assert_allclose(found.stress[g], found.strain_derivative[g] / abs(np.linalg.det(graph.globals["cell"][g])), rtol=1e-13)


def test_atomic_virials_sum_to_the_virial(params, graph):
    _, gradient = jax.jit(lambda p, g: edge_gradient(SITE_ENERGY, p, g))(params, graph)
    shares = atomic_virials(gradient, graph)
    total = jax.jit(lambda p, g: predict(SITE_ENERGY, p, g))(params, graph).strain_derivative
    for g in range(3):
        np.testing.assert_allclose(shares[graph.nodes["graph"] == g].sum(0), -total[g], atol=1e-12)
    assert (shares[~graph.nodes["mask"]] == 0).all()


@pytest.mark.thorough
@pytest.mark.parametrize("chunk", [1, 5])
def test_hessian_equals_differences_of_forces_and_does_not_depend_on_the_chunk(params, graph, chunk):
    found = np.asarray(jax.jit(lambda p, g: hessian(SITE_ENERGY, p, g, chunk=chunk))(params, graph))
    forces = jax.jit(lambda x: predict(SITE_ENERGY, params, graph._replace(nodes={**graph.nodes, "positions": x})).forces)
    positions, step = np.asarray(graph.nodes["positions"]), 1e-4
    for n, a in ((0, 0), (2, 1), (3, 2)):
        move = np.zeros_like(positions)
        move[n, a] = step
        np.testing.assert_allclose(found[:, :, n, a], -(forces(positions + move) - forces(positions - move)) / (2 * step), atol=1e-6)
    np.testing.assert_allclose(found, found.transpose(2, 3, 0, 1), atol=1e-10)
    assert (found[~graph.nodes["mask"]] == 0).all() and (found[:, :, ~graph.nodes["mask"]] == 0).all()


@pytest.mark.parametrize(
    ("l_max", "correlation"), [pytest.param(1, 1, marks=pytest.mark.thorough), pytest.param(2, 3, marks=pytest.mark.slow)]
)
def test_hessian_vector_products_in_float32_are_those_of_float64(l_max, correlation):
    config = CONFIG.model_copy(update={"l_max": l_max, "correlation": correlation, "cutoff": 4.0})
    params = init_model(config, jax.random.key(0), jnp.float64).params
    graphs = [build_graph(structure(name), ELEMENTS, config.cutoff) for name in ("ethanol", "silicon8")]

    def product(dtype):
        graph = batch(graphs, capacity_for(graphs), dtype)
        direction = np.random.default_rng(0).normal(size=graph.nodes["positions"].shape).astype(dtype)
        single = jax.tree.map(lambda x: x.astype(dtype), params)
        found = jax.jit(lambda p, g, v: hessian_vector_product(build(config).apply, p, g, v))(single, graph, direction)
        assert found.dtype == dtype
        return [np.asarray(found, np.float64)[graph.nodes["mask"] & (graph.nodes["graph"] == g)] for g in range(2)]

    for single, exact in zip(product(np.float32), product(np.float64), strict=True):
        rms = np.sqrt(np.mean(exact**2))
        assert rms > 1e-2 and 0 < np.abs(single - exact).max() < SINGLE_PRECISION * rms


def test_chunk_of_nothing_is_refused(params, graph):
    with pytest.raises(ValueError, match="chunk"):
        hessian(SITE_ENERGY, params, graph, chunk=0)


def test_third_derivatives_are_finite_on_padding_and_equal_differences(params, graph):
    direction = jnp.asarray(np.random.default_rng(0).normal(size=graph.nodes["positions"].shape)) * graph.nodes["mask"][:, None]

    def second(x):
        def forces(y):
            return predict(SITE_ENERGY, params, graph._replace(nodes={**graph.nodes, "positions": y})).forces

        return jax.jvp(forces, (x,), (direction,))[1]

    positions = jnp.asarray(graph.nodes["positions"])
    third = jax.jit(lambda x: jax.jvp(second, (x,), (direction,))[1])(positions)
    step, at = 1e-4, jax.jit(second)
    np.testing.assert_allclose(
        third, (at(positions + step * direction) - at(positions - step * direction)) / (2 * step), rtol=1e-4, atol=1e-5
    )
    assert np.isfinite(third).all() and np.abs(third).max() > 1e-3


@pytest.mark.thorough
def test_vmap_over_positions_equals_a_loop(params, graph):
    stack = jnp.stack([graph.nodes["positions"] * scale for scale in (1.0, 1.01)])

    def forces(x):
        return predict(SITE_ENERGY, params, graph._replace(nodes={**graph.nodes, "positions": x})).forces

    np.testing.assert_allclose(jax.jit(jax.vmap(forces))(stack), jnp.stack([jax.jit(forces)(x) for x in stack]), rtol=1e-10, atol=1e-12)


def test_a_bad_structure_leaves_the_others_bit_identical(params, graph):
    evaluate = jax.jit(lambda x: predict(SITE_ENERGY, params, graph._replace(nodes={**graph.nodes, "positions": x})))
    positions = np.array(graph.nodes["positions"])
    good = evaluate(positions)
    positions[1, 2] = np.nan
    bad = evaluate(positions)
    others = np.asarray(graph.nodes["graph"]) != 0
    assert np.isnan(bad.energy[0])
    np.testing.assert_array_equal(bad.energy[1:], good.energy[1:])
    np.testing.assert_array_equal(bad.forces[others], good.forces[others])
    np.testing.assert_array_equal(bad.stress[1:], good.stress[1:])


def test_large_products_keep_their_precision_on_every_device(params, graph):
    text = jax.jit(lambda p, g: predict(SITE_ENERGY, p, g)).lower(params, graph).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert dots and all("precision = [HIGHEST, HIGHEST]" in line for line in dots)


@pytest.mark.parametrize("block_bytes", [100, pytest.param(10**9, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks={"RealAgnosticDensityResidual": (), "RealAgnosticAttResidual": pytest.mark.thorough}.get(name, pytest.mark.slow)
        )
        for name in INTERACTIONS
    ],
)
def test_neither_energy_and_forces_nor_training_steps_scatter(monkeypatch, graph, name, block_bytes):
    """A scatter is slow on a CPU, and on a GPU it is not deterministic."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(blocks, "_WHOLE_BYTES", 0)
    config = CONFIG.model_copy(update={"interaction_first": name, "interaction": name, "l_max": 1})
    params, site_energy = init_model(config, jax.random.key(0), jnp.float64).params, build(config).apply
    loss = loss_terms(LossConfig(kind="stress"))

    forces = jax.jit(lambda p, g: predict(site_energy, p, g)).lower(params, graph)
    step = jax.jit(lambda p, g: loss_and_gradient(site_energy, loss, p, g)).lower(params, graph)
    assert not scatters(forces) and not scatters(step)
    assert ("stablehlo.while" in forces.as_text()) == (block_bytes == 100)


@pytest.mark.thorough
def test_second_derivatives_do_not_scatter(params, graph):
    def force_loss(params, graph):
        return jnp.sum(predict(SITE_ENERGY, params, graph).forces ** 2)

    assert not scatters(jax.jit(jax.grad(force_loss)).lower(params, graph))
    along = jax.jit(lambda p, g: hessian_vector_product(SITE_ENERGY, p, g, g.nodes["positions"]))
    assert not scatters(along.lower(params, graph))
