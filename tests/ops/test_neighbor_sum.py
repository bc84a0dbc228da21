"""The sum over neighbours as one operation: plain and by kernels, run by an interpreter; its derivatives, and the model that uses it."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import macejax
from macejax.data.batch import capacity_for
from macejax.model.coupling import convolution_paths
from macejax.model.linear import irreps_of
from macejax.ops import convolution, neighbor_kernels, neighbor_plain, neighbor_sum
from macejax.ops.convolution import _message_rows
from macejax.ops.neighbor_sum import sum_neighbors
from macejax.ops.neighbor_terms import EDGES, FEATURES, HARMONICS, MESSAGES, NAMES, WEIGHTS, counts_of, others
from tests.structures import structure

ATOMS, SLOTS, CHANNELS = 3, 8, 64
DEGREES = ("0e", "1o", "2e", "3o")
FEW = (((0, 0, 0, 1.0), (1, 1, 1, -0.5), (0, 2, 1, 0.3)), ((1, 2, 0, 2.0), (0, 1, 0, 0.7)))
SPARSE = (((0, 5, 1, 0.4), (2, 6, 0, -1.0)),)  # harmonics of degrees that no term has
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def rows_of(irreps: str):
    node = irreps_of(irreps)
    return tuple(itertools.chain(*_message_rows(convolution_paths(node, DEGREES, DEGREES), node)))


@pytest.fixture(params=["64x0e", "64x0e+64x1o"])
def rows(request):
    return rows_of(request.param)


def dense(which, rows, *arguments):
    """The derivative by array number `which`, by one dense coupling tensor."""
    subscripts = {WEIGHTS: "njpk", HARMONICS: "njy", FEATURES: "njdk", MESSAGES: "nrk"}
    coupling = np.zeros((len(rows), *counts_of(rows)))
    for r, terms in enumerate(rows):
        for p, y, d, c in terms:
            coupling[r, p, y, d] += c
    operands = ",".join(subscripts[k] for k in others(which))
    return jnp.einsum(f"rpyd,{operands}->{subscripts[which]}", jnp.asarray(coupling, arguments[0].dtype), *arguments)


def all_but(which, arrays):
    return [x for k, x in enumerate(arrays) if k != which]


def arrays(rows, atoms=ATOMS, slots=SLOTS, channels=CHANNELS, dtype=np.float64):
    """Weights, harmonics, features, cotangent of messages."""
    paths, harmonics, components = counts_of(rows)
    shapes = [
        (atoms, slots, paths, channels),
        (atoms, slots, harmonics),
        (atoms, slots, components, channels),
        (atoms, len(rows), channels),
    ]
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("terms", ["64x0e", "64x0e+64x1o", "64x0e+64x1o+64x2e", FEW, SPARSE], ids=["L0", "L1", "L2", "few", "sparse"])
def test_plain_sums_and_derivatives_are_the_dense_expression(terms):
    """With rows of slots that are summed in parts."""
    rows = rows_of(terms) if isinstance(terms, str) else terms
    given = arrays(rows, slots=128, channels=4)
    expected = [dense(which, rows, *all_but(which, given)) for which in range(4)]
    for which in range(4):
        np.testing.assert_allclose(neighbor_plain.derivative(which, rows, *all_but(which, given)), expected[which], **EXACT)
    for ours, theirs in zip(neighbor_plain.gradients(rows, *given), expected[:3], strict=True):
        np.testing.assert_allclose(ours, theirs, **EXACT)
    edges, tangents = given[:3], [jnp.cos(x) for x in given[:3]]
    along = jax.jvp(functools.partial(dense, MESSAGES, rows), edges, tangents)[1]
    np.testing.assert_allclose(neighbor_plain.tangent(rows, *edges, *tangents), along, **EXACT)


@pytest.mark.parametrize("which", range(4), ids=NAMES)
def test_each_kernel_is_the_dense_expression(rows, which):
    given = all_but(which, arrays(rows))
    (found,) = neighbor_kernels.call_kernel((which,), rows, *given, interpret=True)
    np.testing.assert_allclose(found, dense(which, rows, *given), **EXACT)


def test_the_kernel_of_gradients_gives_all_three(rows):
    given = arrays(rows)
    found = neighbor_kernels.call_kernel(EDGES, rows, *given, interpret=True)
    for which in EDGES:
        np.testing.assert_allclose(found[which], dense(which, rows, *all_but(which, given)), **EXACT)


def test_one_program_per_atom_where_atoms_are_many(rows, monkeypatch):
    monkeypatch.setattr(neighbor_kernels, "_ENOUGH_PROGRAMS", 1)
    edges = arrays(rows)[:3]
    (found,) = neighbor_kernels.call_kernel((MESSAGES,), rows, *edges, interpret=True)
    np.testing.assert_allclose(found, dense(MESSAGES, rows, *edges), **EXACT)


def test_channels_that_32_does_not_divide(rows):
    given = arrays(rows, channels=24)[1:]
    (found,) = neighbor_kernels.call_kernel((WEIGHTS,), rows, *given, interpret=True)
    np.testing.assert_allclose(found, dense(WEIGHTS, rows, *given), **EXACT)


@pytest.mark.thorough
def test_derivatives_to_third_order():
    edges = arrays(FEW, atoms=1, slots=3, channels=2)[:3]
    check_grads(lambda *x: jnp.sin(sum_neighbors(FEW, *x)), edges, order=3, modes=["rev"])
    check_grads(lambda *x: jnp.sin(sum_neighbors(FEW, *x)), edges, order=2, modes=["fwd", "rev"])


def test_a_pullback_can_be_transposed():
    rows = FEW
    edges = arrays(rows, atoms=1, slots=4, channels=2)[:3]
    tangents = [x + 1 for x in edges]
    messages, pullback = jax.vjp(functools.partial(sum_neighbors, rows), *edges)
    (transposed,) = jax.linear_transpose(pullback, messages)(tuple(tangents))
    _, expected = jax.jvp(functools.partial(sum_neighbors, rows), edges, tangents)
    np.testing.assert_allclose(transposed, expected, **EXACT)


def test_a_batch_joins_the_atoms(rows):
    weights, harmonics, features, _ = arrays(rows)
    several = jnp.stack([harmonics, 2 * harmonics], axis=1)
    found = jax.vmap(lambda y: sum_neighbors(rows, weights, y, features), in_axes=1)(several)
    once = sum_neighbors(rows, weights, harmonics, features)
    np.testing.assert_allclose(found, jnp.stack([once, 2 * once]), **EXACT)


def test_components_that_no_path_touches():
    """As those of odd irreps in a model without parity: they add nothing, and their derivative is zero."""
    edges = arrays(FEW)[:3]
    wider = [jnp.concatenate([x, jnp.ones_like(x[:, :, :1])], axis=2) for x in edges]
    sums = [
        jax.jit(jax.value_and_grad(lambda *x: jnp.sum(jnp.sin(sum_neighbors(FEW, *x))), (0, 1, 2)))(*arguments)
        for arguments in (edges, wider)
    ]
    np.testing.assert_allclose(sums[0][0], sums[1][0], rtol=1e-12)
    for exact, padded in zip(sums[0][1], sums[1][1], strict=True):
        np.testing.assert_allclose(padded[:, :, :-1], exact, rtol=1e-12)
        assert not padded[:, :, -1].any()


def _model_and_batch(hidden: str = "4x0e+4x1o", dtype=np.float64):
    config = macejax.ModelConfig(elements=(1, 6), e0s=(0.0, 0.0), cutoff=4.0, hidden_irreps=hidden, l_max=2, radial_mlp=(16,))
    graphs = [macejax.build_graph(structure("benzene"), config.elements, config.cutoff)]
    return macejax.init_model(config, jax.random.key(0), dtype), macejax.batch(graphs, capacity_for(graphs), dtype)


@pytest.mark.thorough
def test_the_model_is_that_of_dense_sums(monkeypatch):
    model, batch = _model_and_batch()

    def predict(params, batch):  # a new function each time: what is traced depends on what is patched
        return macejax.predict(macejax.build(model.config).apply, params, batch)

    ours = jax.jit(lambda p, b: predict(p, b))(model.params, batch)
    monkeypatch.setattr(convolution, "sum_neighbors", functools.partial(dense, MESSAGES))
    plain = jax.jit(lambda p, b: predict(p, b))(model.params, batch)
    assert np.abs(plain.forces).max() > 1e-3
    np.testing.assert_allclose(ours.energy, plain.energy, rtol=1e-12)
    np.testing.assert_allclose(ours.forces, plain.forces, rtol=0, atol=1e-12 * np.abs(plain.forces).max())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-11), (np.float32, 2e-5)])
def test_kernels_on_a_gpu(rows, dtype, tolerance):
    edges = arrays(rows, atoms=70, slots=12, channels=96, dtype=dtype)[:3]

    def energy(*x):
        with jax.default_matmul_precision("highest"):
            return jnp.sum(jnp.sin(sum_neighbors(rows, *x)))

    found = jax.jit(jax.value_and_grad(energy, argnums=(0, 1, 2)))(*edges)
    assert "triton" in jax.jit(energy).lower(*edges).as_text()
    neighbor_sum.use_kernels(False)
    try:
        plain = jax.jit(jax.value_and_grad(lambda *x: energy(*x), argnums=(0, 1, 2)))(*edges)
    finally:
        neighbor_sum.use_kernels(True)
    with jax.default_device(jax.devices("cpu")[0]):
        exact = [np.asarray(x, np.float64) for x in edges]
        expected = jax.jit(jax.value_and_grad(energy, argnums=(0, 1, 2)))(*exact)
    for ours, without, theirs in zip(*map(jax.tree.leaves, (found, plain, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
        np.testing.assert_allclose(without, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", ["32x0e", "32x0e+32x1o", "32x0e+32x1o+32x2e"])
def test_the_model_on_a_gpu_is_that_on_a_cpu(hidden):
    model, batch = _model_and_batch(hidden)
    predict = functools.partial(macejax.predict, macejax.build(model.config).apply)
    found = jax.jit(lambda p, b: predict(p, b))(model.params, batch)
    with jax.default_device(jax.devices("cpu")[0]):
        expected = jax.jit(lambda p, b: predict(p, b))(model.params, batch)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-10 * np.abs(expected.forces).max())


def for_cuda(function, *arguments):
    """The program for a CUDA device, whether there is one or not."""
    try:
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as error:
        if "No supported GPU devices" in str(error):
            pytest.skip("this jax lowers kernels for CUDA where there is a device only")
        raise


def test_kernels_can_be_left_out(rows):
    edges = arrays(rows, dtype=np.float32)[:3]
    neighbor_sum.use_kernels(False)
    try:
        assert "triton" not in for_cuda(lambda *x: sum_neighbors(rows, *x), *edges)
    finally:
        neighbor_sum.use_kernels(True)
    assert "triton" in for_cuda(lambda *x: sum_neighbors(rows, *x), *edges)


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_products_have_the_precision_that_is_asked_for(rows, precision):
    """Also those that are written when a program is lowered, and those of derivatives."""
    edges = arrays(rows, dtype=np.float32)[:3]

    def energy(*x):
        with jax.default_matmul_precision(precision):
            return jnp.sum(jnp.sin(sum_neighbors(rows, *x)))

    text = jax.jit(jax.grad(energy, (0, 1, 2))).lower(*edges).as_text()
    other = {"highest": "DEFAULT", "default": "HIGHEST"}[precision]
    assert "dot_general" in text and f"precision = [{other}" not in text


@pytest.mark.parametrize("atoms, slots", [(0, 4), (3, 0)])
def test_nothing_to_sum(rows, atoms, slots):
    edges = arrays(rows, atoms, slots)[:3]
    found, pullback = jax.vjp(functools.partial(sum_neighbors, rows), *edges)
    assert found.shape == (atoms, len(rows), CHANNELS) and not found.any()
    assert [x.shape for x in pullback(found)] == [x.shape for x in edges]


def test_dtypes_are_promoted():
    edges = arrays(FEW)[:3]
    found = jax.grad(lambda y: jnp.sum(sum_neighbors(FEW, edges[0].astype(np.float32), y, edges[2])))(edges[1])
    assert found.dtype == np.float64
