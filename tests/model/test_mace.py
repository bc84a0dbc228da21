"""The model as a whole: what it accepts, how many parameters it has, and that its fast paths change nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.config import ModelConfig, ModelSection
from macejax.config.model import UNCUT
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graph
from macejax.model import interaction, linear
from macejax.model.coupling import polynomials
from macejax.model.geometry import edge_vectors
from macejax.model.interaction import RealAgnosticResidual
from macejax.model.mace import INTERACTIONS, MACE, ScaleShiftMACE
from macejax.model.model import build, count_parameters, init_model
from macejax.ops import blocks
from tests.marks import rest_is_thorough
from tests.structures import structure

SMALL = dict(elements=(1, 6, 8), e0s=(0.0, 0.0, 0.0), hidden_irreps="4x0e+4x1o", l_max=2, correlation=2, radial_mlp=(8,), cutoff=3.0)


def ethanol(dtype=np.float64):
    graph = build_graph(structure("ethanol"), SMALL["elements"], SMALL["cutoff"])
    return batch([graph], capacity_for([graph], growth=1.3), dtype)


def node_energies(config, params, **own):
    graph = ethanol()
    return jax.jit(build(config, **own).apply)(params, edge_vectors(graph), graph)


def test_numbers_of_parameters_are_those_of_the_paper():
    large = dict(hidden_irreps="256x0e+256x1o+256x2e", l_max=3, correlation=3)
    three, four = dict(elements=(1, 6, 8), e0s=(0.0,) * 3), dict(elements=(1, 6, 7, 8), e0s=(0.0,) * 4)
    assert count_parameters(ModelConfig(**large, **three, interaction_first="RealAgnosticResidual")) == 2_803_984
    assert count_parameters(ModelConfig(**large, **four, interaction_first="RealAgnosticResidual")) == 2_983_184
    assert count_parameters(ModelConfig(**large, **three, interaction_first="RealAgnostic")) == 3_393_808
    reduced = dict(**large, contraction_basis="reduced")
    assert count_parameters(ModelConfig(**reduced, **three, interaction_first="RealAgnosticResidual")) == 2_707_984
    assert count_parameters(ModelConfig(**reduced, **four, interaction_first="RealAgnosticResidual")) == 2_855_184
    assert count_parameters(ModelConfig(**reduced, **three, interaction_first="RealAgnostic")) == 3_297_808


@pytest.mark.thorough
@pytest.mark.parametrize("name", INTERACTIONS)
def test_one_draw_for_all_parameters_has_the_distributions_of_the_modules(name):
    config = ModelConfig(**{**SMALL, "hidden_irreps": "16x0e+16x1o"}, interaction_first=name, interaction=name)
    ours = init_model(config, jax.random.key(0), jnp.float64).params
    graph = ethanol()
    flax = jax.jit(build(config).init)(jax.random.key(1), edge_vectors(graph), graph)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ours) == jax.tree.map(lambda x: (x.shape, x.dtype), flax)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(flax), strict=True):
        if b.size > 1 and b.std() == 0:  # constants
            np.testing.assert_array_equal(a, b)
        elif a.size >= 48:
            assert abs(np.log(a.std() / b.std())) < 5 / np.sqrt(a.size) and abs(a.mean()) < 5 * b.std() / np.sqrt(a.size)


@pytest.mark.parametrize("first", ["RealAgnostic", "RealAgnosticResidual"])
def test_the_paths_for_many_species_and_large_systems_give_the_same_energies(monkeypatch, first):
    config = ModelConfig(**SMALL, interaction_first=first)
    params = init_model(config, jax.random.key(0), jnp.float64).params
    expected = node_energies(config, params)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "_WHOLE_BYTES", 0)
    np.testing.assert_allclose(node_energies(config, params), expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(interaction, "_MAX_FACTORISED_SPECIES", 0)
    monkeypatch.setattr(linear, "_STACKED_SPECIES", 0)
    np.testing.assert_allclose(node_energies(config, params), expected, rtol=1e-12, atol=1e-12)


def test_full_weights_fold_onto_the_reduced_basis():
    full, reduced = (ModelConfig(**SMALL, contraction_basis=basis) for basis in ("full", "reduced"))
    params = init_model(full, jax.random.key(0), jnp.float64).params
    folded = jax.tree.map(lambda x: x, params)
    for name, layer in folded["params"].items():
        if name.startswith("product"):
            for irrep, weights in layer["contraction"].items():
                for nu in weights:
                    weights[nu] = jnp.einsum("pr,zpk->zrk", polynomials(("0e", "1o", "2e"), int(nu), irrep).projection, weights[nu])
    expected_shapes = jax.tree.map(jnp.shape, init_model(reduced, jax.random.key(0)).params)
    assert jax.tree.map(jnp.shape, folded) == expected_shapes
    np.testing.assert_allclose(node_energies(reduced, folded), node_energies(full, params), rtol=1e-12)


@pytest.mark.thorough
def test_scale_and_shift_and_contributions():
    config = ModelConfig(**SMALL, scale=1.7, shift=-0.3)
    params = init_model(config, jax.random.key(0), jnp.float64).params
    graph = ethanol()
    vectors, real = edge_vectors(graph), np.asarray(graph.nodes["mask"])
    layers = ScaleShiftMACE(config).apply(params, vectors, graph, method="contributions")
    plain = MACE(config).apply(params, vectors, graph)
    assert layers.shape == (len(real), 2) and np.abs(layers).min(0)[0] == 0
    np.testing.assert_allclose(layers.sum(-1), plain, rtol=1e-14)
    np.testing.assert_allclose(ScaleShiftMACE(config).apply(params, vectors, graph)[real], 1.7 * plain[real] - 0.3, rtol=1e-13)
    np.testing.assert_array_equal(ScaleShiftMACE(config).apply(params, vectors, graph)[~real], 0)
    assert isinstance(build(config), ScaleShiftMACE) and type(build(config.model_copy(update={"model": "MACE"}))) is MACE


def test_species_table_may_hold_any_elements_of_the_model():
    """A model of many elements computes the same with a table of those present as with a table of all."""
    config = ModelConfig(**SMALL)
    params = init_model(config, jax.random.key(0), jnp.float64).params
    graph = ethanol()
    full = graph._replace(
        nodes={**graph.nodes, "slot": graph.nodes["species"]}, globals={**graph.globals, "species_table": np.arange(3, dtype=np.int32)}
    )
    permuted = graph._replace(
        nodes={**graph.nodes, "slot": np.array([2, 0, 1], np.int32)[graph.nodes["species"]]},
        globals={**graph.globals, "species_table": np.array([1, 2, 0, 1], np.int32)},
    )
    expected = build(config).apply(params, edge_vectors(graph), graph)
    for other in (full, permuted):
        np.testing.assert_allclose(build(config).apply(params, edge_vectors(other), other), expected, rtol=1e-12, atol=1e-13)


def test_an_own_block_takes_the_place_of_a_named_one():
    class Doubled(RealAgnosticResidual):
        def __call__(self, neighbors, h, edges, species):
            message, skip = super().__call__(neighbors, h, edges, species)
            return 2 * message, skip

    config = ModelConfig(**SMALL)
    params = init_model(config, jax.random.key(0), jnp.float64).params
    named = node_energies(config, params)
    assert np.abs(node_energies(config, params, interaction=Doubled) - named).max() > 1e-3
    np.testing.assert_array_equal(node_energies(config, params, interaction=RealAgnosticResidual), named)


@pytest.mark.x32
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_in_is_dtype_out(dtype):
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        pytest.skip("x64 is off in this process")
    config = ModelConfig(**SMALL)
    params = init_model(config, jax.random.key(0), dtype).params
    graph = ethanol(dtype)
    with jax.numpy_dtype_promotion("strict"):
        energies = jax.jit(build(config).apply)(params, edge_vectors(graph), graph)
    assert energies.dtype == dtype and all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(interaction="Transformer"), "no interaction block is called 'Transformer'.*RealAgnostic"),
        (dict(hidden_irreps="4x0e+8x1o"), "same number of channels"),
        (dict(hidden_irreps="4x1o"), "begin with 0e"),
        (dict(hidden_irreps="4x0e+4x2e+4x1o"), "ascending degree"),
        (dict(hidden_irreps="scalars"), "are no irreps"),
        (dict(edge_irreps_first_scalar=True), "no effect without edge_irreps"),
        (dict(keep_last_layer_irreps=True, num_interactions=1), "no effect on one layer"),
        (dict(keep_last_layer_irreps=True, hidden_irreps="4x0e"), "or on scalars"),
        (dict(hidden_irreps="4x0e+4x1o+4x2e+4x3o"), "beyond l_max 2"),
        (dict(readout_irreps="4x1o"), "must be scalars"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(ModelConfig(**{**SMALL, **change}))


def test_the_precision_of_products_reaches_the_program_in_float32_alone():
    config = ModelConfig(**SMALL)

    def program(dtype, precision):
        graph = ethanol(dtype)
        params = init_model(config, jax.random.key(0), dtype).params
        return jax.jit(build(config, matmul_precision=precision).apply).lower(params, edge_vectors(graph), graph).as_text()

    assert "bf16" in program(jnp.float32, "BF16_BF16_F32_X3")
    assert "bf16" not in program(jnp.float64, "BF16_BF16_F32_X3")
    assert "bf16" not in program(jnp.float32, "highest")
    with pytest.raises(ValueError, match="nonsense"):
        build(config, matmul_precision="nonsense")


def test_two_programs_give_the_same_bits():
    config = ModelConfig(**SMALL)
    params = init_model(config, jax.random.key(0), jnp.float64).params
    first = node_energies(config, params)
    jax.clear_caches()
    np.testing.assert_array_equal(first, node_energies(config, params))


@pytest.mark.thorough
def test_a_transform_and_a_repulsion_act_and_have_derivatives_where_atoms_meet():
    plain = ModelConfig(**SMALL)
    params = init_model(plain, jax.random.key(0), jnp.float64).params
    graph = ethanol()
    energies = [node_energies(plain, params)]
    for change in ({"distance_transform": "Agnesi"}, {"distance_transform": "Soft"}, {"pair_repulsion": True}):
        config = plain.model_copy(update=change)
        energies.append(node_energies(config, params))
        vectors = edge_vectors(graph).at[0, 0].set(0.0)
        gradient = jax.jit(jax.grad(lambda v, config=config: jnp.sum(build(config).apply(params, v, graph))))(vectors)
        assert np.isfinite(gradient).all()
    for k, one in enumerate(energies):
        assert all(np.abs(one - other).max() > 1e-6 for other in energies[:k])
    assert energies[-1].sum() > energies[0].sum()  # nuclei repel


@pytest.mark.parametrize("name", rest_is_thorough(UNCUT, ["RealAgnosticAttResidual"]))
def test_weights_that_do_not_vanish_are_no_weights_beyond_the_cutoff(name):
    """As in mace-torch, whose lists end there; and a new model of that kind is refused, for its energies would jump."""
    config = ModelConfig(**SMALL, interaction_first=name, interaction=name)
    params = init_model(config, jax.random.key(0), jnp.float64).params
    molecule = structure("ethanol")
    graphs = [build_graph(molecule, SMALL["elements"], cutoff) for cutoff in (SMALL["cutoff"], SMALL["cutoff"] + 1)]
    assert len(graphs[1].senders) > len(graphs[0].senders)
    capacity = capacity_for(graphs[1:])
    batches = [batch([graph], capacity, np.float64) for graph in graphs]
    short, long = (jax.jit(build(config).apply)(params, edge_vectors(graph), graph) for graph in batches)
    np.testing.assert_allclose(short, long, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="jump at the cutoff: set apply_cutoff to false"):
        ModelSection(interaction=name)
    assert not ModelSection(interaction=name, apply_cutoff=False).apply_cutoff
