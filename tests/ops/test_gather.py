"""The neighbour gather: exact adjoints, every order and mode of differentiation, no scatter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.ops.gather import gather_neighbors, reverse_edges, select_rows
from tests.ops.programs import scatters


def rows_of_a_random_graph(num_nodes: int = 7, slots: int = 8, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Senders [N, M] and reverse [N*M] of a symmetric random graph with padding slots."""
    rng = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(num_nodes) for j in range(i + 1, num_nodes) if rng.random() < 0.6]
    senders = np.repeat(np.arange(num_nodes)[:, None], slots, axis=1)
    reverse = np.arange(num_nodes * slots)
    used = np.zeros(num_nodes, int)
    for i, j in pairs:
        a, b = i * slots + used[i], j * slots + used[j]
        senders.flat[a], senders.flat[b] = j, i
        reverse[a], reverse[b] = b, a
        used[i], used[j] = used[i] + 1, used[j] + 1
    return jnp.asarray(senders, jnp.int32), jnp.asarray(reverse, jnp.int32)


SENDERS, REVERSE = rows_of_a_random_graph()
H = jax.random.normal(jax.random.key(0), (7, 3))


def energy(h: jax.Array) -> jax.Array:
    neighbors = gather_neighbors(h, SENDERS, REVERSE)
    messages = jnp.tanh(neighbors * h[:, None])
    return jnp.sum(messages**2 * reverse_edges(messages, REVERSE))


def plain_energy(h: jax.Array) -> jax.Array:
    messages = jnp.tanh(h[SENDERS] * h[:, None])
    reversed_messages = messages.reshape(-1, 3)[REVERSE].reshape(messages.shape)
    return jnp.sum(messages**2 * reversed_messages)


DERIVATIVES = {
    "value": lambda f: f,
    "reverse": jax.grad,
    "forward": jax.jacfwd,
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
    "third": lambda f: jax.jacfwd(jax.jacrev(jax.jacfwd(f))),
    "batch": lambda f: lambda h: jax.vmap(jax.grad(f))(jnp.stack([h, 2 * h, -h])),
    "scan with checkpoint": lambda f: (
        lambda h: jax.grad(
            lambda x: jnp.sum(jax.lax.scan(jax.checkpoint(lambda c, _: (c - 0.01 * jax.grad(f)(c), f(c))), x, None, length=3)[1])
        )(h)
    ),
}


@pytest.mark.parametrize("kind", DERIVATIVES)
def test_derivatives_equal_those_of_plain_indexing_without_a_scatter(kind):
    ours = jax.jit(DERIVATIVES[kind](energy))
    np.testing.assert_allclose(ours(H), jax.jit(DERIVATIVES[kind](plain_energy))(H), rtol=1e-12, atol=1e-12)
    assert not scatters(ours.lower(H))


def test_the_scatters_of_plain_indexing_are_seen():
    """Or the tests around this one could not fail."""
    (first,) = scatters(jax.jit(jax.grad(lambda h: jnp.sum(jnp.sin(h[SENDERS])))).lower(H))
    assert "tensor<7x8x3x" in first and first.endswith("tensor<7x3xf64>")  # of edge size, into nodes
    for kind in set(DERIVATIVES) - {"value", "forward"}:
        assert scatters(jax.jit(DERIVATIVES[kind](plain_energy)).lower(H)), kind


def test_gather_and_its_transpose_are_exact_adjoints():
    weights = jax.random.normal(jax.random.key(1), (7, 8, 3))
    gathered, transpose = jax.vjp(lambda h: gather_neighbors(h, SENDERS, REVERSE), H)
    np.testing.assert_allclose(jnp.vdot(gathered, weights), jnp.vdot(H, transpose(weights)[0]), rtol=1e-14)


@pytest.mark.parametrize("kind", DERIVATIVES)
def test_selection_of_rows_has_the_derivatives_of_plain_indexing_without_a_scatter(kind):
    index = np.array([3, 0, 3, 3, 5, 6])  # with repetitions, unsorted, some rows unused

    def energy(select, h):
        return jnp.sum(jnp.tanh(select(h * h, index) * select(h, index[::-1])) ** 2)

    ours = jax.jit(DERIVATIVES[kind](lambda h: energy(select_rows, h)))
    plain = jax.jit(DERIVATIVES[kind](lambda h: energy(lambda x, i: x[i], h)))
    np.testing.assert_allclose(ours(H), plain(H), rtol=1e-12, atol=1e-12)
    assert not scatters(ours.lower(H))


def test_indices_may_differ_along_a_batch():
    other_senders, other_reverse = rows_of_a_random_graph(seed=1)
    senders, reverse = jnp.stack([SENDERS, other_senders]), jnp.stack([REVERSE, other_reverse])
    gradient = jax.vmap(jax.grad(lambda h, s, r: jnp.sum(gather_neighbors(h, s, r) ** 3)), in_axes=(None, 0, 0))(H, senders, reverse)
    expected = [jax.grad(lambda h, s=s: jnp.sum(h[s] ** 3))(H) for s in senders]
    np.testing.assert_allclose(gradient, jnp.stack(expected), rtol=1e-12)


def test_pmap_with_donation():
    step = jax.pmap(
        lambda h, s, r: h - jax.grad(lambda x: jnp.sum(gather_neighbors(x, s, r) ** 2))(h), axis_name="devices", donate_argnums=0
    )
    expected = H - jax.grad(lambda x: jnp.sum(x[SENDERS] ** 2))(H)
    np.testing.assert_allclose(step(H[None], SENDERS[None], REVERSE[None])[0], expected, rtol=1e-12)
