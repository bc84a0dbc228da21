"""Every fast path of a whole model against the plain one, to third derivatives; and that the fast ones are taken."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.cache import compilations
from macejax.config import ModelConfig
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graph
from macejax.data.structure import Structure
from macejax.model import interaction, linear
from macejax.model.coupling import polynomials
from macejax.model.geometry import edge_vectors
from macejax.model.model import build, init_model
from macejax.ops import blocks, contraction
from macejax.potential import predict
from tests.ops.derivatives import assert_parity, to_third_order
from tests.ops.programs import shapes

ATOMS = 13
ALL, NONE = 10**9, 0
PLAIN = [
    (interaction, "_MAX_FACTORISED_SPECIES", NONE),
    (linear, "_STACKED_SPECIES", ALL),
    (contraction, "_MAX_TERMS", ALL),
    (blocks, "_WHOLE_BYTES", ALL),
]
FAST = {
    "factorised": [(interaction, "_MAX_FACTORISED_SPECIES", ALL)],
    "scan over species": [(linear, "_STACKED_SPECIES", NONE)],
    "dense contraction": [(contraction, "_MAX_TERMS", NONE)],
    "blocks": [(blocks, "_WHOLE_BYTES", NONE), (blocks, "_BLOCK_BYTES", 1)],
}
QUICK = ("blocks",)


def crowd(species: int) -> Structure:
    """Atoms of so many species, at random places none of which is close to another."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), axis=-1).reshape(-1, 3)[:ATOMS] * 1.6
    return Structure(1 + np.arange(ATOMS) % species, places + rng.normal(scale=0.1, size=(ATOMS, 3)))


def config_for(species: int, **changes) -> ModelConfig:
    defaults = dict(hidden_irreps="2x0e+2x1o", l_max=1, correlation=2, radial_mlp=(4,), num_bessel=3, cutoff=2.2)
    return ModelConfig(**{**defaults, "elements": tuple(range(1, species + 1)), "e0s": (0.0,) * species, **changes})


def batch_of(structure: Structure, config: ModelConfig):
    graph = build_graph(structure, config.elements, config.cutoff)
    return batch([graph], capacity_for([graph]), np.float64)


def derivatives(config: ModelConfig, params, graph):
    """Of the site energies, with respect to parameters and edge vectors."""
    apply = build(config).apply
    return to_third_order(lambda p, r: apply(p, r, graph), params, edge_vectors(graph), forces=True)


def switch(monkeypatch, limits) -> None:
    for module, name, limit in limits:
        monkeypatch.setattr(module, name, limit)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "species"),
    [
        *(pytest.param(name, 3, marks=() if name in QUICK else pytest.mark.slow) for name in FAST),
        ("many species", ATOMS),
        pytest.param("factorised", ATOMS, marks=pytest.mark.slow),
    ],
)
def test_paths_agree_to_third_order(monkeypatch, name, species):
    config = config_for(species)
    params, graph = init_model(config, jax.random.key(0), jnp.float64).params, batch_of(crowd(species), config)
    if name == "many species":  # what they get by themselves
        found = derivatives(config, params, graph)
        switch(monkeypatch, PLAIN)
    else:
        switch(monkeypatch, PLAIN)
        with monkeypatch.context() as fast:
            switch(fast, FAST[name])
            found = derivatives(config, params, graph)
    assert_parity(found, derivatives(config, params, graph))


@pytest.mark.slow
def test_weights_of_all_paths_agree_with_reduced_ones_to_third_order():
    full, reduced = (config_for(2, contraction_basis=basis) for basis in ("full", "reduced"))
    params, graph = init_model(full, jax.random.key(0), jnp.float64).params, batch_of(crowd(2), full)

    def folded(params):
        layers = dict(params["params"])
        for name in [name for name in layers if name.startswith("product")]:
            weights = {
                irrep: {nu: jnp.einsum("pr,zpk->zrk", polynomials(("0e", "1o"), int(nu), irrep).projection, w) for nu, w in degrees.items()}
                for irrep, degrees in layers[name]["contraction"].items()
            }
            layers[name] = {**layers[name], "contraction": weights}
        return {"params": layers}

    vectors = edge_vectors(graph)
    found = to_third_order(lambda p, r: build(reduced).apply(folded(p), r, graph), params, vectors, forces=True)
    assert_parity(found, to_third_order(lambda p, r: build(full).apply(p, r, graph), params, vectors, forces=True))


@pytest.mark.parametrize(("species", "factorised"), [(12, True), (13, False)])
def test_the_first_layer_is_factorised_for_few_species(species, factorised):
    """Then no array holds the messages of every edge, or the radial weights, for all channels."""
    config = config_for(species, num_interactions=1, hidden_irreps="64x0e")
    params, graph = init_model(config, jax.random.key(0), jnp.float64).params, batch_of(crowd(species), config)
    lowered = jax.jit(lambda p, g: predict(build(config).apply, p, g)).lower(params, graph)
    slots = graph.senders.size // len(graph.nodes["mask"])
    of_edges = [shape for shape in shapes(lowered) if shape[:2] == (len(graph.nodes["mask"]), slots)]
    assert of_edges and (max(map(math.prod, of_edges)) < graph.senders.size * 64) == factorised


def test_contractions_of_the_default_model_are_written_out():
    """No array of monomials and no product with the matrix of coefficients: one product, that of species and weights, remains."""
    message, atoms, channels = ("0e", "1o", "2e", "3o"), 2, 128
    basis = [{nu: polynomials(message, nu, name).reduced for nu in (1, 2, 3)} for name in ("0e", "1o")]
    weights = [jnp.ones((2, sum(map(len, output.values())), channels)) for output in basis]
    arguments = jnp.ones((atoms, 16, channels)), weights, jnp.ones((atoms, 2))
    lowered = jax.jit(lambda *x: contraction.contract(*x, basis)).lower(*arguments)
    assert lowered.as_text().count("dot_general") == 1
    assert max(map(math.prod, shapes(lowered))) <= atoms * channels * sum(w.shape[1] for w in weights)


def test_another_set_of_elements_needs_no_other_program():
    config = config_for(6)
    params, traces = init_model(config, jax.random.key(0), jnp.float64).params, []

    def site_energy(*arguments):
        traces.append(1)
        return build(config).apply(*arguments)

    evaluate = jax.jit(lambda p, g: predict(site_energy, p, g))
    places = crowd(2)
    batches = [batch_of(places._replace(numbers=elements[places.numbers - 1]), config) for elements in np.array([[1, 2], [6, 3], [5, 5]])]
    with compilations() as compiled:
        energies = [float(evaluate(params, graph).energy[0]) for graph in batches[:2]]
    assert len(traces) == 1 and [program.name for program in compiled].count("jit(<lambda>)") == 1
    assert abs(energies[0] - energies[1]) > 1e-3
    evaluate(params, batches[2])
    assert len(traces) == 2  # one element alone is another shape: a new program is seen


@pytest.mark.parametrize(("whole", "few"), [(None, True), pytest.param(ALL, False, marks=pytest.mark.thorough)], ids=["blocks", "at once"])
def test_temporaries_of_energy_and_forces_are_those_of_a_block(monkeypatch, whole, few):
    """Beside what a block has, two arrays of the size of the neighbours' features: their gradient, and that of the reversed edges."""
    if whole is not None:
        monkeypatch.setattr(blocks, "_WHOLE_BYTES", whole)
    atoms, slots, channels, components = 4000, 48, 32, 4
    config = config_for(2, hidden_irreps=f"{channels}x0e+{channels}x1o")
    small, params = batch_of(crowd(2), config), init_model(config, jax.random.key(0), jnp.float64).params
    sizes = {small.senders.size: atoms * slots, small.nodes["mask"].size: atoms}
    graph = jax.tree.map(lambda x: jax.ShapeDtypeStruct((sizes.get(x.shape[0], x.shape[0]), *x.shape[1:]), x.dtype), small)
    compiled = jax.jit(lambda p, g: predict(build(config).apply, p, g)).lower(params, graph).compile()
    neighbors = atoms * slots * components * channels * 8
    assert (compiled.memory_analysis().temp_size_in_bytes < 3 * neighbors) == few
