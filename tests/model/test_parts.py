"""Coupling coefficients, radial functions and geometry."""

from __future__ import annotations

import functools
import itertools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graph
from macejax.data.read import from_atoms
from macejax.model.coupling import convolution_paths, polynomials, wigner_3j
from macejax.model.geometry import edge_vectors, safe_norm, spherical_harmonics, sum_per_graph
from macejax.model.radial import bessel, polynomial_cutoff
from macejax.ops.contraction import monomials
from macejax.ops.harmonics import harmonics
from tests.structures import atoms, structure

# mace-torch's number of paths (columns of its U matrices), and the rank of their symmetric part.
PATHS = {
    (3, 1, "0e"): (1, 1), (3, 2, "0e"): (4, 4), (3, 3, "0e"): (23, 8),
    (3, 2, "1o"): (6, 3), (3, 3, "1o"): (51, 12), (3, 2, "2e"): (7, 5), (3, 3, "2e"): (65, 14),
    (2, 2, "2e"): (4, 3), (2, 3, "0e"): (11, 5), (2, 3, "1o"): (21, 5), (2, 3, "2e"): (23, 6),
}  # fmt: skip


NATURAL = ("0e", "1o", "2e", "3o")


@pytest.mark.parametrize("key", PATHS, ids=str)
def test_numbers_of_paths_and_ranks_are_those_of_mace(key):
    l_max, degree, out = key
    found = polynomials(NATURAL[: l_max + 1], degree, out)
    assert (found.projection.shape[0], found.reduced.shape[0]) == PATHS[key]


@pytest.mark.parametrize(
    ("message", "degree", "out"),
    [
        (NATURAL[:3], 2, "1o"),
        (NATURAL[:3], 3, "2e"),
        (NATURAL[:4], 3, "1o"),
        (NATURAL[:3], 4, "0e"),
        (NATURAL[:3], 3, "1e"),
        (("0o", "0e", "1o", "1e"), 3, "0o"),
        (("0e", "1e", "2e"), 2, "1e"),
    ],
    ids=str,
)
def test_polynomials_are_equivariant(message, degree, out):
    found = polynomials(message, degree, out)
    assert len(found.reduced) > 0
    rotation = Rotation.random(random_state=1).as_matrix() * (1 if "1o" not in message else -1)
    irreps = e3nn.Irreps("+".join(message))
    x = np.random.default_rng(0).normal(size=irreps.dim)

    def evaluate(x):
        return found.reduced @ np.prod(x[monomials(len(x), degree)], axis=1)

    turned = np.asarray(e3nn.IrrepsArray(irreps, x).transform_by_matrix(rotation).array)
    expected = evaluate(x) @ np.asarray(e3nn.Irrep(out).D_from_matrix(rotation)).T
    np.testing.assert_allclose(evaluate(turned), expected, atol=1e-11)


@pytest.mark.parametrize("degree", [2, 3])
def test_reduced_polynomials_are_orthonormal_tensors(degree):
    reduced = polynomials(NATURAL[:3], degree, "1o").reduced
    index = monomials(9, degree)
    tensor = np.zeros((reduced.shape[0], 3) + (9,) * degree)
    for position in np.ndindex(*(9,) * degree):  # spread every coefficient over the orderings of its monomial
        column = np.flatnonzero((index == sorted(position)).all(1))[0]
        orderings = len({tuple(np.array(position)[list(p)]) for p in itertools.permutations(range(degree))})
        tensor[(..., *position)] = reduced[..., column] / orderings
    flat = tensor.reshape(len(tensor), -1)
    np.testing.assert_allclose(flat @ flat.T, 3 * np.eye(len(flat)), atol=1e-12)


def test_wigner_symbols_have_the_signs_of_e3nn_044(real_torch_e3nn):
    for l1 in range(7):
        for l2 in range(7):
            for l3 in range(abs(l1 - l2), min(l1 + l2, 6) + 1):
                np.testing.assert_allclose(wigner_3j(l1, l2, l3), real_torch_e3nn(l1, l2, l3), atol=1e-6, err_msg=f"{l1} {l2} {l3}")


@pytest.fixture
def real_torch_e3nn(monkeypatch):
    """Wigner 3j symbols of the e3nn that mace-torch pins."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4.4 reads its own constants with torch.load
    pytest.importorskip("torch")
    o3 = pytest.importorskip("e3nn.o3")
    return lambda *degrees: o3.wigner_3j(*degrees).numpy()


def test_convolution_paths_follow_mace_order():
    order = [(p.node, p.harmonic, p.out) for p in convolution_paths(("0e", "1o"), NATURAL[:3], NATURAL[:3])]
    assert order == [
        ("0e", "0e", "0e"), ("1o", "1o", "0e"), ("0e", "1o", "1o"), ("1o", "0e", "1o"), ("1o", "2e", "1o"), ("0e", "2e", "2e"), ("1o",
        "1o", "2e"),
    ]  # fmt: skip


def test_degrees_beyond_the_table_of_signs_are_refused():
    with pytest.raises(ValueError, match="lower l_max"):
        wigner_3j(12, 1, 12)


def test_bessel_functions_and_their_derivatives_join_at_the_series():
    cutoff, num = 5.0, 8
    for order in range(4):
        f = lambda r: bessel(r, num, cutoff)  # noqa: E731
        for _ in range(order):
            f = jax.jacfwd(f)
        edge = 1e-2 * cutoff / np.pi / np.arange(1, num + 1)  # where each function changes from series to sine
        at = jax.jit(jax.vmap(f))
        below, above = (np.diagonal(at(jnp.asarray(edge * side))) for side in (1 - 1e-9, 1 + 1e-9))
        np.testing.assert_allclose(below, above, rtol=1e-7, atol=1e-5)
        assert np.isfinite(at(jnp.zeros(1))).all()
    np.testing.assert_allclose(
        bessel(jnp.asarray(1.3), 2, cutoff)[1], np.sqrt(2 / cutoff) * np.sin(2 * np.pi * 1.3 / cutoff) / 1.3, rtol=1e-14
    )


@pytest.mark.parametrize("power", [5, 6])
def test_cutoff_vanishes_smoothly(power):
    f = lambda r: polynomial_cutoff(r, 4.0, power)  # noqa: E731
    assert f(jnp.asarray(0.0)) == 1 and f(jnp.asarray(4.0)) == 0 and f(jnp.asarray(7.0)) == 0
    for _ in range(2):
        f = jax.grad(f)
        assert abs(f(jnp.asarray(4.0 - 1e-9))) < 1e-6
        assert f(jnp.asarray(4.0)) == 0 and f(jnp.asarray(0.0)) == 0
    assert abs(jax.grad(f)(jnp.asarray(4.0 - 1e-9))) > 1  # and no more than two


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lengths_and_harmonics_have_finite_derivatives_to_third_order(dtype):
    def f(v):
        r = safe_norm(v)
        return jnp.append(spherical_harmonics(v, r, 3), r)

    def derivatives(v):
        found, g = [], f
        for _ in range(4):
            found.append(g(v))
            g = jax.jacfwd(g)
        return found

    v = jnp.asarray([[0.6 * length, 0.0, 0.8 * length] for length in (0.0, 1e-30, 1e-8, 1e-3, 1.0)], dtype)
    assert all(np.isfinite(x).all() for x in jax.jit(jax.vmap(derivatives))(v))


def test_derivatives_of_harmonics_are_those_of_plain_differentiation():
    def ours(v):
        return spherical_harmonics(v, safe_norm(v), 3)

    def plain(v):
        irreps = e3nn.Irreps.spherical_harmonics(3)
        directions = e3nn.IrrepsArray("1o", v / jnp.linalg.norm(v))
        return e3nn.spherical_harmonics(irreps, directions, normalize=False, normalization="component").array

    def derivatives(f, v):  # three nested directions, in both modes
        def slope(v):
            return jax.jvp(f, (v,), (jnp.asarray([0.2, 0.9, -0.4]),))[1]

        return f(v), slope(v), jax.jacrev(slope)(v), jax.jvp(jax.jacrev(slope), (v,), (jnp.asarray([-0.5, 0.1, 0.3]),))[1]

    v = jnp.asarray([0.3, -0.7, 0.5])
    for found, expected in zip(*(jax.jit(functools.partial(derivatives, f))(v) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 5])
def test_harmonics_are_those_of_e3nn(degree):
    v = jax.random.normal(jax.random.key(0), (4, 3))
    irreps = e3nn.Irreps.spherical_harmonics(degree)
    f = lambda v: e3nn.spherical_harmonics(irreps, e3nn.IrrepsArray("1o", v), normalize=False, normalization="component").array  # noqa: E731
    expected = jax.jit(lambda v: (f(v), jax.vmap(jax.jacfwd(f))(v)))(v)
    found = jax.jit(lambda v: (harmonics(v, degree), jax.vmap(jax.jacrev(lambda v: harmonics(v, degree)))(v)))(v)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * np.abs(y).max())


def test_harmonics_are_component_normalised_and_ordered():
    v = jax.random.normal(jax.random.key(0), (5, 3))
    found = np.asarray(spherical_harmonics(v, safe_norm(v), 3))
    for degree in range(4):
        np.testing.assert_allclose((found[:, degree**2 : (degree + 1) ** 2] ** 2).sum(-1), 2 * degree + 1, rtol=1e-12)
    np.testing.assert_allclose(found[:, 1:4], np.sqrt(3) * v / np.linalg.norm(v, axis=-1, keepdims=True), rtol=1e-12)


def two_structures():
    structures = [structure(name) for name in ("water", "salt")]
    elements = sorted({int(z) for s in structures for z in s.numbers})
    graphs = [build_graph(s, elements, 3.5) for s in structures]
    return structures, batch(graphs, capacity_for(graphs, growth=1.5), np.float64)


def test_edge_vectors_point_from_receiver_to_sender():
    structures, graph = two_structures()
    vectors = np.asarray(edge_vectors(graph)).reshape(-1, 3)
    mask = np.asarray(graph.edges["mask"])
    assert (vectors[~mask] == 0).all()
    np.testing.assert_allclose(vectors[np.asarray(graph.edges["reverse"])], -vectors, atol=1e-12)
    positions, owner = np.asarray(graph.nodes["positions"]), np.asarray(graph.nodes["graph"])[graph.receivers]
    shift = np.einsum("ea,eab->eb", graph.edges["shift"], np.asarray(graph.globals["cell"])[owner])
    np.testing.assert_allclose(vectors, positions[graph.senders] + shift - positions[graph.receivers], atol=1e-12)
    assert (np.linalg.norm(vectors[mask], axis=-1) < 3.5).all()


def test_edge_vectors_in_float32_are_rounded_once():
    many = from_atoms(atoms("triclinic22").repeat((4, 1, 3)))
    graph = build_graph(many, sorted(set(many.numbers.tolist())), 3.5)
    exact = np.asarray(edge_vectors(batch([graph], capacity_for([graph]), np.float64)))
    single = batch([graph], capacity_for([graph]), np.float32)
    plain = single._replace(nodes={key: value for key, value in single.nodes.items() if key != "positions_low"})
    for made, limit in ((single, 2.0**-23), (plain, np.inf)):
        vectors = jax.jit(edge_vectors)(made)
        assert vectors.dtype == np.float32
        error = np.abs(np.asarray(vectors, np.float64) - exact).max()
        assert error <= limit * np.abs(exact).max()
    assert error > 4 * 2.0**-23 * np.abs(exact).max()  # without what rounding took they are worse, or this test means nothing

    def weighted(x: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        made = edge_vectors(graph._replace(nodes=graph.nodes | {"positions": x}))
        return jnp.sum(made * jnp.arange(made.size, dtype=made.dtype).reshape(made.shape) / made.size)

    slope = jax.grad(weighted)
    np.testing.assert_array_equal(slope(single.nodes["positions"], single), slope(plain.nodes["positions"], plain))


def test_a_bad_structure_spoils_no_other_sum():
    structures, graph = two_structures()
    values = jax.random.normal(jax.random.key(0), (len(graph.nodes["mask"]), 2))
    expected = sum_per_graph(values, graph)
    for bad in (np.nan, np.inf):
        spoilt = sum_per_graph(values.at[0, 1].set(bad), graph)
        assert np.isnan(spoilt[0, 1])
        np.testing.assert_array_equal(spoilt[1:], expected[1:])
    np.testing.assert_allclose(expected[0], values[: len(structures[0].numbers)].sum(0), rtol=1e-12)
