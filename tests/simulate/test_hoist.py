"""What does not change from step to step is computed before the loop, and nothing else changes by it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from jax.extend.core import Literal, jaxprs_in_params

from macejax import ModelConfig, build, init_model
from macejax.simulate.hoist import hoist
from macejax.simulate.integrators import Settings, State, nothing
from macejax.simulate.list_shape import allocate, shape_for
from macejax.simulate.program import advance
from macejax.simulate.system import Evaluation, species_of

CALLED: list[int] = []
OF_WEIGHTS = {"dot_general", "concatenate"}  # what folds weights and makes maps for the elements present


@jax.custom_jvp
def halved(x, weight):
    return x * (weight @ weight)[0, 0] / 2


halved.defjvp(lambda primals, tangents: (halved(*primals), tangents[0]))


def repeated_in_both(fixed, x):
    """What is repeated is read before the loop and within."""
    tall = jnp.broadcast_to(fixed["v"], (5, 3))
    return jnp.sum(tall**2) * jnp.sum(tall * x, axis=1)


def calls(fixed, x):
    """Functions in functions; one of them twice, with different things fixed."""
    inner = jax.jit(lambda a, b: jnp.sin(a) * jnp.sum(b))
    return inner(fixed["v"], x) + inner(x, fixed["v"]) + halved(x, fixed["m"])


def loop(fixed, x):
    return jax.lax.scan(lambda c, _: (jnp.cos(c) @ fixed["m"], None), x, None, length=3)[0]


def not_of_x(fixed, x):
    """Results that are fixed, constant, an argument, or repeated."""
    del x
    return {"fixed": fixed["m"] @ fixed["m"], "same": fixed["v"], "constant": 2.0, "tall": jnp.broadcast_to(fixed["v"], (4, 3))}, None


def told(fixed, x):
    """An effect happens in every call."""
    jax.debug.callback(lambda: CALLED.append(1))
    return x + fixed["v"]


def counted(fixed, x):
    return x * jnp.arange(3.0) + jnp.where(jnp.arange(3) > 1, fixed["v"], 0)


@pytest.mark.parametrize("function", [repeated_in_both, calls, loop, not_of_x, counted, told])
def test_values_are_those_without(function):
    fixed = {"v": jnp.array([1.0, -2.0, 0.5]), "m": jnp.linspace(-1, 1, 9).reshape(3, 3)}
    for x in (jnp.array([0.3, 0.1, -0.7]), jnp.array([4.0, 5.0, 6.0])):
        expected = jax.jit(function)(fixed, x)
        found = jax.jit(lambda fixed, x, function=function: hoist(function, fixed, jnp.zeros(3))(x))(fixed, x)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.effects_barrier()
    assert len(CALLED) == (4 if function is told else 0)
    CALLED.clear()


def following(jaxpr, known: set) -> list:
    """Equations that read nothing but what is known, which grows by what they make."""
    found = []
    for equation in jaxpr.eqns:
        if all(isinstance(v, Literal) or v in known for v in equation.invars):
            known.update(equation.outvars)
            found.append(equation)
    return found


def test_a_step_of_a_model_does_not_fold_its_weights_again():
    atoms = bulk("Cu", cubic=True) * (3, 1, 1)
    atoms.numbers[::2] = 8
    config = ModelConfig(elements=(8, 29), e0s=(0.0, 0.0), cutoff=3.0, hidden_irreps="4x0e + 4x1o", l_max=2, correlation=3)
    model, species = init_model(config, jax.random.key(0)), species_of(atoms.numbers, config.elements)
    number = len(atoms)
    rows = allocate(shape_for(atoms.positions, atoms.cell.array, (True,) * 3, config.cutoff, 0.3), atoms.positions, atoms.cell.array)
    found = Evaluation(jnp.zeros(()), jnp.zeros((number, 3)), jnp.zeros((3, 3)))
    start = jnp.asarray(atoms.positions)
    state = State(jnp.int32(0), start, start, jnp.asarray(atoms.cell.array), found, jnp.zeros((2, 3)), jax.random.PRNGKey(0))
    settings = Settings(1.0, jnp.ones((number, 1)), 0.0, 1.0, 1.0, 0.0, jnp.ones((number, 3), bool), 0.0)
    program = functools.partial(advance, build(config).apply, nothing)
    traced = jax.make_jaxpr(program)(model.params, species, settings, state, rows, jnp.int32(2), 1.0).jaxpr
    (inner,) = (closed for equation in traced.eqns for closed in jaxprs_in_params(equation.params))
    (while_loop,) = (equation for equation in inner.eqns if equation.primitive.name == "while")
    body = while_loop.params["body_jaxpr"].jaxpr
    assert sum(equation.primitive.name == "dot_general" for equation in body.eqns) > 20  # the model is here
    known = {*inner.constvars, *inner.invars[: len(jax.tree.leaves((model.params, species)))]}
    assert OF_WEIGHTS <= {equation.primitive.name for equation in following(inner, known)}
    constants = while_loop.invars[while_loop.params["cond_nconsts"] :][: while_loop.params["body_nconsts"]]
    inside = {v for v, given in zip(body.invars, constants, strict=False) if isinstance(given, Literal) or given in known}
    assert not OF_WEIGHTS & {equation.primitive.name for equation in following(body, inside)}
    of_edges = (number, rows.shape.near_slots)
    assert not [v for v in constants if v in known and v.aval.ndim > 2 and v.aval.shape[:2] == of_edges]  # zeros of edges are no weights
