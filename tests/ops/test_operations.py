"""Convolution, contraction and blocks against literal formulae."""

from __future__ import annotations

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.model.coupling import convolution_paths, polynomials
from macejax.ops import blocks, contraction
from macejax.ops.blocks import Gathered, forward_mode, map_blocks, map_energies
from macejax.ops.contraction import contract, monomials
from macejax.ops.convolution import Edges, convolve, convolve_species
from macejax.ops.gather import gather_neighbors
from tests.ops.test_gather import REVERSE, SENDERS

L_MAX, CHANNELS, HIDDEN = 2, 3, 5
HARMONICS = ("0e", "1o", "2e")  # to L_MAX


def random_edges(num_radial: int = 4) -> Edges:
    keys = jax.random.split(jax.random.key(3), 2)
    harmonics = jax.random.normal(keys[0], (*SENDERS.shape, (L_MAX + 1) ** 2))
    radial = jax.random.normal(keys[1], (*SENDERS.shape, num_radial))
    return Edges(harmonics, radial, SENDERS % 2)


def literal_messages(h, edges, weights, paths):
    """Sum over neighbours of path coefficient x harmonic x neighbour feature x radial weight, one path at a time, in numpy."""
    h, harmonics, radial = np.asarray(h), np.asarray(edges.harmonics), np.asarray(weights)
    outputs: dict[int, list[np.ndarray]] = {}
    for p, path in enumerate(paths):
        node, harmonic, out = (e3nn.Irrep(name) for name in (path.node, path.harmonic, path.out))
        start = sum(2 * l + 1 for l in range(node.l))
        neighbors = h[np.asarray(SENDERS)][:, :, start : start + node.dim]
        part = harmonics[:, :, harmonic.l**2 : (harmonic.l + 1) ** 2]
        outputs.setdefault(out.l, []).append(np.einsum("cab,nma,nmbk,nmk->nck", path.coefficients, part, neighbors, radial[:, :, p]))
    return [np.concatenate(outputs[l], axis=-1) for l in sorted(outputs)]


@pytest.mark.parametrize("block_bytes", [1, 10**9])
def test_convolution_equals_the_formula(monkeypatch, block_bytes):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(blocks, "_WHOLE_BYTES", 0)
    paths = convolution_paths(("0e", "1o"), HARMONICS, HARMONICS)
    edges, h = random_edges(), jax.random.normal(jax.random.key(5), (7, 4, CHANNELS))
    matrix = jax.random.normal(jax.random.key(6), (4, len(paths) * CHANNELS))
    expected = literal_messages(h, edges, (edges.radial @ matrix).reshape(*SENDERS.shape, len(paths), CHANNELS), paths)
    neighbors = gather_neighbors(h, SENDERS, REVERSE)
    found = convolve(neighbors, edges, lambda x: x @ matrix, paths, ("0e", "1o"))
    assert tuple(found) == HARMONICS
    for ours, literal in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, literal, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [1, 20], ids=["linear map of the matrices", "linear map of the messages"])
@pytest.mark.parametrize("block_bytes", [1, 10**9])
def test_factorised_first_layer_equals_the_general_convolution(monkeypatch, block_bytes, width):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(blocks, "_WHOLE_BYTES", 0)
    paths = convolution_paths(("0e",), HARMONICS, HARMONICS)
    edges, table = random_edges(), jax.random.normal(jax.random.key(5), (2, CHANNELS))
    first = jax.random.normal(jax.random.key(6), (4, width))
    last = jax.random.normal(jax.random.key(7), (width, len(paths) * CHANNELS))
    maps = {irrep: jax.random.normal(jax.random.key(l), (CHANNELS, 2)) for l, irrep in enumerate(HARMONICS)}
    hidden = functools.partial(lambda w, x: jnp.tanh(x @ w), first)
    rows = []

    def linear(messages):  # and an irrep that is not put in, as IrrepsLinear has it
        rows.append(len(messages["0e"]))
        return {irrep: x @ maps[irrep] for irrep, x in messages.items()} | {"9e": jnp.zeros((rows[-1], 19, 2))}

    def general(table_rows):
        neighbors = table_rows[SENDERS % 2][:, :, None]
        return linear(convolve(neighbors, edges, lambda x: hidden(x) @ last, paths, ("0e",)))

    def factorised(table_rows):
        return convolve_species(table_rows, edges, hidden, last, paths, linear)

    factorised(table)
    assert rows == [len(SENDERS) if width > 1 else 2 * width]

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), factorised(table), general(table))
    ours, reference = (jax.jit(jax.jacobian(f))(table) for f in (factorised, general))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11), ours, reference)


@pytest.mark.parametrize("block_bytes", [1, 10**9])
def test_contraction_equals_the_polynomials_written_out(monkeypatch, block_bytes):
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(blocks, "_WHOLE_BYTES", 0)
    names, correlation, atoms = ("0e", "1o"), 3, 5
    basis = [{nu: polynomials(HARMONICS, nu, name).reduced for nu in range(1, correlation + 1)} for name in names]
    x = jax.random.normal(jax.random.key(0), (atoms, (L_MAX + 1) ** 2, CHANNELS))
    species = np.array([0, 1, 1, 0, 1])
    weights = [jax.random.normal(jax.random.key(1), (2, sum(len(p) for p in output.values()), CHANNELS)) for output in basis]
    expected = []
    for output, weight in zip(basis, weights, strict=True):
        terms = [np.einsum("rmq,nqk->rnmk", p, np.prod(np.asarray(x)[:, monomials(9, nu)], axis=2)) for nu, p in output.items()]
        expected.append(np.einsum("rnmk,nrk->nmk", np.concatenate(terms), np.asarray(weight)[species]))
    ours = contract(x, weights, jax.nn.one_hot(species, 2), basis)
    np.testing.assert_allclose(ours, np.concatenate(expected, axis=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_blocks_change_neither_values_nor_derivatives(size):
    x, y = jax.random.normal(jax.random.key(0), (7, 2)), jax.random.normal(jax.random.key(1), (7, 3))

    def block(a, b):
        return jnp.sin(a) * jnp.sum(b, axis=-1, keepdims=True), a**2

    def total(a, size):
        first, second = map_blocks(block, (a, y), size)
        return jnp.sum(first * second)

    for derivative in (lambda f: f, jax.grad, jax.hessian):
        ours = jax.jit(derivative(functools.partial(total, size=size)))(x)
        np.testing.assert_allclose(ours, jax.jit(derivative(functools.partial(total, size=7)))(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [2, 50])
def test_energies_with_their_gradients_equal_plain_differentiation(size):
    params = jax.random.normal(jax.random.key(0), (3,))
    sent, x = jax.random.normal(jax.random.key(1), (7, 3)), jax.random.normal(jax.random.key(2), (7, 2))
    slot = jnp.arange(7) % 2

    def function(params, neighbors, arrays):
        ((neighbors,), ((x, slot),)) = neighbors, arrays
        return jnp.sum(jnp.tanh(neighbors @ params) * jnp.cos(x[:, :1]), axis=1) * jnp.exp(x[:, 1]) * (1 + slot)

    def ours(params, sent, x):
        return jnp.vdot(map_energies(function, params, Gathered(sent, (SENDERS,), REVERSE), ((x, slot),), -(-7 // size)), jnp.arange(7.0))

    def plain(params, sent, x):
        return jnp.vdot(function(params, (gather_neighbors(sent, SENDERS, REVERSE),), ((x, slot),)), jnp.arange(7.0))

    def force_loss(f, params, sent, x):
        return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(f, argnums=(1, 2))(params, sent, x))

    def along(f, params, sent, x):
        with forward_mode():
            return jax.jvp(functools.partial(f, params), (sent, x), (sent**2, x**2))[1]

    for derivative in (
        lambda f: f,
        lambda f: jax.grad(f, argnums=1),
        lambda f: jax.grad(f, argnums=2),
        lambda f: jax.grad(f, argnums=(0, 1, 2)),
        lambda f: jax.jacfwd(f, argnums=(1, 2)),
        lambda f: jax.hessian(f, argnums=(1, 2)),
        lambda f: jax.grad(functools.partial(force_loss, f), argnums=(0, 1, 2)),
        lambda f: jax.grad(functools.partial(along, f)),
    ):
        found, expected = (jax.jit(derivative(f))(params, sent, x) for f in (ours, plain))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13), found, expected)


def test_energies_are_computed_once_where_the_gradient_is_asked_for():
    def function(params, neighbors, arrays):
        return jnp.sum(jnp.sin(neighbors[0]) * params, axis=(1, 2))

    def total(sent):
        return jnp.sum(map_energies(function, 2.0, Gathered(sent, (SENDERS,), REVERSE), ((),), 4))

    text = jax.jit(jax.grad(total)).lower(jnp.ones((7, 3))).as_text()
    assert text.count("stablehlo.while") == 1  # one loop over blocks, not one forward and one backward


def test_long_polynomials_are_evaluated_by_a_matrix_product_to_the_same_numbers(monkeypatch):
    basis = [{nu: polynomials(HARMONICS, nu, name).reduced for nu in (1, 2, 3)} for name in ("0e", "1o")]
    x = jax.random.normal(jax.random.key(0), (5, (L_MAX + 1) ** 2, CHANNELS))
    weights = [jax.random.normal(jax.random.key(1), (2, sum(len(p) for p in output.values()), CHANNELS)) for output in basis]
    member = jax.nn.one_hot(np.array([0, 1, 1, 0, 1]), 2)

    def value_and_gradients():
        return jax.value_and_grad(lambda *args: jnp.sum(contract(*args, member, basis) ** 2), argnums=(0, 1))(x, weights)

    short = value_and_gradients()
    monkeypatch.setattr(contraction, "_MAX_TERMS", 0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12), value_and_gradients(), short)
