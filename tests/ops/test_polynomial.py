"""Sparse polynomials against the same written out in jax.numpy, with all derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.ops.polynomial import Table, polynomial

# Two results of two and one rows: powers, a constant factor, a term that occurs twice, a row without terms.
TABLE = Table(
    [
        [[(2.0, ((0, 0), (0, 0), (1, 1))), (1.0, ((0, 1), (1, 0))), (0.5, ((1, 0), (0, 1)))], []],
        [[(1.0, ((0, 0), (0, 0), (0, 0))), (-1.0, ((1, 0), (1, 0), (0, 1))), (3.0, ((1, 1),))]],
    ]
)


def ours(x, y):
    return polynomial(TABLE, x, y)


def written_out(x, y):
    first = 2 * x[..., 0, :] ** 2 * y[..., 1, :] + 1.5 * x[..., 1, :] * y[..., 0, :]
    second = x[..., 0, :] ** 3 - y[..., 0, :] ** 2 * x[..., 1, :] + 3 * y[..., 1, :]
    return jnp.stack([first, jnp.zeros_like(first)], axis=-2), second[..., None, :]


def arguments(*leading):
    return tuple(jax.random.normal(jax.random.key(k), (*leading, 2, 5)) for k in range(2))


def check(f, g, *args):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), jax.jit(f)(*args), g(*args))


@pytest.mark.parametrize("leading", [(), (3,), (3, 4)])
def test_values(leading):
    check(ours, written_out, *arguments(*leading))


@pytest.mark.parametrize(
    "modes", [(jax.jacfwd,), (jax.jacrev,), (jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd), (jax.jacrev, jax.jacrev)]
)
def test_derivatives_in_both_modes(modes):
    def derive(f):
        for mode in modes:
            f = mode(f, argnums=(0, 1))
        return f

    check(derive(ours), derive(written_out), *arguments())


def test_third_derivatives():
    def derive(f):
        def slope(x, y):
            return jax.jvp(lambda *args: sum(jnp.sum(r**2) for r in f(*args)), (x, y), (2 * x, y[..., ::-1, :]))[1]

        return jax.grad(lambda x, y: jnp.vdot(jax.grad(slope)(x, y), y), argnums=(0, 1))

    check(derive(ours), derive(written_out), *arguments())


def test_one_result_alone_and_one_argument_alone():
    x, y = arguments(3)
    check(jax.grad(lambda x: jnp.sum(ours(x, y)[1] ** 2)), jax.grad(lambda x: jnp.sum(written_out(x, y)[1] ** 2)), x)
    linear = Table([[[(2.0, ((0, 1),))], [(1.0, ((0, 0),))]]])
    check(lambda x: jax.hessian(lambda x: jnp.sum(polynomial(linear, x)[0]))(x), lambda x: jnp.zeros((*x.shape, *x.shape)), x)


def test_batches_of_one_argument_or_both():
    x, y = arguments(3)
    many = jnp.stack([x, 2 * x], axis=2)
    for axes in ((2, None), (None, 2), (2, 2)):
        args = tuple(many if axis == 2 else y for axis in axes)
        check(jax.vmap(ours, axes), jax.vmap(written_out, axes), *args)


def test_terms_are_collected_and_tables_compared_by_what_they_hold():
    table = Table([[[(1.0, ((0, 0), (0, 1))), (2.0, ((0, 1), (0, 0)))]]])
    assert table.results == ((((3.0, ((0, 0), (0, 1))),),),)
    assert table == Table([[[(3.0, ((0, 0), (0, 1)))]]]) and hash(table) == hash(Table([[[(3.0, ((0, 0), (0, 1)))]]]))
    assert table != Table([[[(4.0, ((0, 0), (0, 1)))]]])
