"""Every fast path of an operation against the plain one, to third derivatives."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.model import linear
from macejax.model.coupling import convolution_paths, polynomials
from macejax.model.linear import Species
from macejax.ops import blocks, contraction, neighbor_kernels, neighbor_sum
from macejax.ops.blocks import Gathered, map_blocks, map_energies
from macejax.ops.contraction import contract
from macejax.ops.convolution import Edges, convolve, convolve_species
from macejax.ops.gather import gather_neighbors
from macejax.ops.neighbor_sum import sum_neighbors
from macejax.ops.neighbor_terms import EDGES
from tests.marks import rest_is_thorough
from tests.ops.derivatives import assert_parity, to_third_order
from tests.ops.test_gather import REVERSE, SENDERS
from tests.ops.test_neighbor_sum import FEW, arrays

HARMONICS, CHANNELS, HIDDEN, RADIAL = ("0e", "1o"), 2, 3, 2
SPARSE, DENSE = 10**6, 0  # terms up to which polynomials are written out


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one atom, wherever an operation chooses them itself."""
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "_WHOLE_BYTES", 0)


def literal_convolution(neighbors, edges, weights, paths):
    """Sums over neighbours of path coefficient x harmonic x feature x radial weight, one path at a time."""
    offsets, outputs = {"0e": slice(0, 1), "1o": slice(1, 4)}, {}
    for p, path in enumerate(paths):
        part, feature = edges.harmonics[:, :, offsets[path.harmonic]], neighbors[:, :, offsets[path.node]]
        term = jnp.einsum("cab,nma,nmbk,nmk->nck", jnp.asarray(path.coefficients), part, feature, weights[:, :, p])
        outputs.setdefault(path.out, []).append(term)
    return [jnp.concatenate(outputs[out], axis=-1) for out in sorted(outputs)]


def convolutions(kind):
    """The plain convolution and a faster one, of radial functions, harmonics, features and the weights of the network."""
    irreps = ("0e",) if kind == "factorised" else HARMONICS
    paths = convolution_paths(irreps, HARMONICS, HARMONICS)
    first, last = normal(0, RADIAL, HIDDEN), normal(1, HIDDEN, len(paths) * CHANNELS)
    radial, harmonics = normal(2, *SENDERS.shape, RADIAL), normal(3, *SENDERS.shape, 4)
    table = normal(4, 2, CHANNELS) if kind == "factorised" else normal(4, 7, 4, CHANNELS)

    def hidden(first, x):
        return jnp.tanh(x @ first)

    def plain(first, last, radial, harmonics, table):
        edges = Edges(harmonics, radial, SENDERS % 2)
        neighbors = table[SENDERS % 2][:, :, None] if kind == "factorised" else table[SENDERS]
        weights = (hidden(first, radial) @ last).reshape(*SENDERS.shape, len(paths), CHANNELS)
        return literal_convolution(neighbors, edges, weights, paths)

    def fast(first, last, radial, harmonics, table):
        edges = Edges(harmonics, radial, SENDERS % 2)
        if kind == "factorised":
            found = convolve_species(table, edges, functools.partial(hidden, first), last, paths, lambda messages: messages)
            return list(found.values())
        return list(convolve(gather_neighbors(table, SENDERS, REVERSE), edges, lambda x: hidden(first, x) @ last, paths, irreps).values())

    return plain, fast, (first, last, radial, harmonics, table)


@pytest.mark.parametrize("kind", rest_is_thorough(["factorised", "general"], ["factorised"]))
def test_convolutions_in_blocks(small_blocks, kind):
    """The first layer's, factorised over species, and that of any layer."""
    plain, fast, arguments = convolutions(kind)
    assert_parity(to_third_order(fast, *arguments), to_third_order(plain, *arguments))


@pytest.mark.parametrize("stacked", [0, 99], ids=["scan", "stacked"])
def test_linear_maps_of_species(monkeypatch, stacked):
    monkeypatch.setattr(linear, "_STACKED_SPECIES", stacked)
    num_species = 9
    member = jax.nn.one_hot(np.arange(12) * 5 % num_species, num_species)

    def plain(x, weight):
        return jnp.einsum("nmk,nkc->nmc", x, weight[jnp.argmax(member, axis=1)])

    def fast(x, weight):
        return linear._of_atoms(x, weight, Species(jnp.arange(num_species), member))

    arguments = normal(0, 12, 3, CHANNELS), normal(1, num_species, CHANNELS, 4)
    assert_parity(to_third_order(fast, *arguments), to_third_order(plain, *arguments))


@pytest.mark.thorough
@pytest.mark.parametrize(("basis", "terms"), [("full", SPARSE), ("reduced", DENSE), ("full", DENSE), ("reduced", SPARSE)])
def test_contractions_in_blocks(small_blocks, monkeypatch, basis, terms):
    """Against the sum over paths of products of features, with mace-torch's weights of all paths or those of the reduced basis."""
    monkeypatch.setattr(contraction, "_MAX_TERMS", terms)
    found = [{nu: polynomials(HARMONICS, nu, name) for nu in (1, 2, 3)} for name in HARMONICS]
    reduced = [{nu: p.reduced for nu, p in output.items()} for output in found]
    species = np.array([0, 1, 1])
    side = 0 if basis == "full" else 1
    weights = [[normal(nu, 2, p.projection.shape[side], CHANNELS) for nu, p in output.items()] for output in found]

    def folded(weights):
        if basis == "reduced":
            return weights
        return [
            [jnp.einsum("pr,spk->srk", p.projection, w) for p, w in zip(o.values(), ws, strict=True)]
            for o, ws in zip(found, weights, strict=True)
        ]

    def plain(x, weights):
        outputs = []
        for output, ws in zip(reduced, folded(weights), strict=True):
            total = 0
            for (nu, coefficients), w in zip(output.items(), ws, strict=True):
                products = jnp.prod(x[:, contraction.monomials(4, nu)], axis=2)
                total += jnp.einsum("rmq,nqk,nrk->nmk", coefficients, products, w[species])
            outputs.append(total)
        return jnp.concatenate(outputs, axis=1)

    def fast(x, weights):
        joined = [jnp.concatenate(ws, axis=1) for ws in folded(weights)]
        return contract(x, joined, jax.nn.one_hot(species, 2), reduced)

    arguments = normal(0, 3, 4, CHANNELS), weights
    assert_parity(to_third_order(fast, *arguments), to_third_order(plain, *arguments))


def test_blocks_of_a_map():
    def block(a, b):
        return jnp.sin(a) * jnp.sum(b, axis=-1, keepdims=True), a**2 * b[:, :1]

    arguments = normal(0, 7, 2), normal(1, 7, 3)
    assert_parity(to_third_order(lambda *x: map_blocks(block, x, 3), *arguments), to_third_order(block, *arguments))


@pytest.mark.parametrize("of", ["parameters too", "features alone"])
def test_blocks_of_energies_that_know_their_gradient(of):
    """They know it where parameters stay as they are."""

    def energies(params, neighbors, arrays):
        ((neighbors,), ((x,),)) = neighbors, arrays
        return jnp.sum(jnp.tanh(neighbors @ params) * jnp.cos(x[:, :1]), axis=1) * jnp.exp(x[:, 1] / 2)

    def plain(params, sent, x):
        return energies(params, (sent[SENDERS],), ((x,),))

    def fast(params, sent, x):
        return map_energies(energies, params, Gathered(sent, (SENDERS,), REVERSE), ((x,),), 4)

    params, *features = normal(0, 3), normal(1, 7, 3), normal(2, 7, 2)
    if of == "features alone":
        fast, plain = functools.partial(fast, params), functools.partial(plain, params)
    arguments = features if of == "features alone" else (params, *features)
    assert_parity(to_third_order(fast, *arguments), to_third_order(plain, *arguments))


def literal_sums(weights, harmonics, features):
    """Messages of `FEW`, one term at a time."""
    term = functools.partial(jnp.einsum, "nmk,nm,nmk->nk")
    rows = [sum(c * term(weights[:, :, p], harmonics[:, :, y], features[:, :, d]) for p, y, d, c in row) for row in FEW]
    return jnp.stack(rows, axis=1)


def test_sums_over_neighbors():
    edges = arrays(FEW, atoms=2, slots=4, channels=2)[:3]
    assert_parity(to_third_order(functools.partial(sum_neighbors, FEW), *edges), to_third_order(literal_sums, *edges))


def test_kernels_of_sums_over_neighbors(monkeypatch):
    """Run by an interpreter, wherever a derivative comes to them: outside jit a primitive is what its `impl` does."""
    kernel = jax.jit(functools.partial(neighbor_kernels.call_kernel, interpret=True), static_argnums=(0, 1))
    ran = set()

    def derivative(*x, which, rows, how):
        ran.add((which,))
        return kernel((which,), rows, *x)[0]

    def gradients(*x, rows, how):
        ran.add(EDGES)
        return kernel(EDGES, rows, *x)

    monkeypatch.setattr(neighbor_sum._derivative, "impl", derivative)
    monkeypatch.setattr(neighbor_sum._gradients, "impl", gradients)
    edges = arrays(FEW, atoms=2, slots=4, channels=2)[:3]
    found = to_third_order(functools.partial(sum_neighbors, FEW), *edges, jit=False)
    assert ran == {(0,), (1,), (2,), (3,), EDGES}
    assert_parity(found, to_third_order(literal_sums, *edges))
