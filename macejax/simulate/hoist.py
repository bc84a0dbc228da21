"""What is the same in every step of a loop, taken out of it.

XLA leaves it in the loop: weights of the symmetric contraction would be folded, and maps be made for the elements present, anew in every
step. On a GPU these are small kernels, a fifth of those of a step (experiments/bench), and with few atoms each takes about as long as any.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Var, primitives

# Calls that are looked into, each with its parameter that holds what is called. Rules of one's own for derivatives are lost so.
_CALLS = {primitives.jit_p: "jaxpr", primitives.custom_jvp_call_p: "call_jaxpr", primitives.custom_vjp_call_p: "call_jaxpr"}


def hoist(function: Callable[..., Any], fixed: Any, *arguments: Any) -> Callable[..., Any]:
    """The function `(*arguments) -> function(fixed, *arguments)`, what follows from `fixed` alone being computed here and now.

    To be called while a program is traced, before the loop that calls the result. The same operations are done as without it. It must not
    be differentiated: derivatives of primitives would be right, but none of `jax.custom_jvp` and `jax.custom_vjp` is used.

    Args:
      function: `(fixed, *arguments) -> result`, pure; all are pytrees of arrays.
      fixed: what does not change in the loop.
      arguments: as in the loop: values do not matter, only structures, shapes and dtypes.
    """
    leaves = jax.tree.leaves(fixed)
    traced, result = jax.make_jaxpr(function, return_shape=True)(fixed, *arguments)
    # Traced once more, so that calls are gone and no two equations share a variable.
    closed = jax.make_jaxpr(functools.partial(_inlined, traced))(*leaves, *jax.tree.leaves(arguments))
    before, within = _split(closed.jaxpr, len(leaves))
    missing = _used(within, closed.jaxpr) - {v for equation in within for v in equation.outvars}
    made = [v for equation in before for v in equation.outvars if v in missing]
    first = closed.jaxpr.replace(invars=closed.jaxpr.invars[: len(leaves)], outvars=made, eqns=before)
    rest = closed.jaxpr.replace(invars=[*made, *closed.jaxpr.invars], eqns=within)
    values = jax.core.eval_jaxpr(first, closed.consts, *leaves)

    def hoisted(*arguments: Any) -> Any:
        found = jax.core.eval_jaxpr(rest, closed.consts, *values, *leaves, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(result), found)

    return hoisted


def _inlined(closed: ClosedJaxpr, *arguments: jax.Array) -> list[jax.Array]:
    """Evaluate, calls equation by equation."""
    jaxpr = closed.jaxpr
    values: dict[Var, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arguments), strict=True))

    def read(v: Var | Literal) -> Any:
        return v.val if isinstance(v, Literal) else values[v]

    for equation in jaxpr.eqns:
        if equation.primitive in _CALLS:
            found = _inlined(equation.params[_CALLS[equation.primitive]], *map(read, equation.invars))
            values.update(zip(equation.outvars, found, strict=True))
        else:
            inputs, outputs = _variables(equation.invars), [v for v in equation.outvars if not isinstance(v, DropVar)]
            alone = jaxpr.replace(constvars=(), invars=inputs, outvars=outputs, eqns=[equation])
            values.update(zip(outputs, jax.core.eval_jaxpr(alone, (), *map(read, inputs)), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _split(jaxpr: Jaxpr, fixed: int) -> tuple[list[JaxprEqn], list[JaxprEqn]]:
    """Equations that follow from the constants and the first `fixed` inputs, and the others.

    What is made of repeated values and numbers alone, zeros for every edge, say, is made where it is needed, which may be in both places:
    to keep it would take memory, and to read it time.
    """
    known = {*jaxpr.constvars, *jaxpr.invars[:fixed]}
    repeated: set[Var] = set()
    follows, within = [], []
    for equation in jaxpr.eqns:
        inputs = _variables(equation.invars)
        if equation.effects or not known.issuperset(inputs):
            within.append(equation)
            continue
        known.update(equation.outvars)
        follows.append(equation)
        if equation.primitive is primitives.broadcast_in_dim_p or all(v in repeated or not v.aval.shape for v in inputs):
            repeated.update(equation.outvars)
    needed, needed_before = _used(within, jaxpr), set[Var]()
    before, again = [], []
    for equation in reversed(follows):
        in_loop = not needed.isdisjoint(equation.outvars) and not repeated.isdisjoint(equation.outvars)
        if in_loop:
            again.append(equation)
            needed.update(_variables(equation.invars))
        if not in_loop or not needed_before.isdisjoint(equation.outvars):
            before.append(equation)
            needed_before.update(_variables(equation.invars))
    return before[::-1], again[::-1] + within


def _used(equations: list[JaxprEqn], jaxpr: Jaxpr) -> set[Var]:
    """Variables that equations or the result read."""
    return set(_variables((*(v for equation in equations for v in equation.invars), *jaxpr.outvars)))


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [v for v in atoms if not isinstance(v, Literal)]
