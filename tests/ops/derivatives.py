"""Two ways to compute the same thing, compared to third derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PARITY = 1e-10  # of every path with the plain one, in float64, relative to the largest entry of each array


def to_third_order(function: Callable[..., Any], *arguments: Any, jit: bool = True, forces: bool = False) -> dict[str, Any]:
    """Of a function of trees of arrays, weighted to one number: value, gradient, Hessian-vector product, and the derivative along a
    direction of the gradient of the summed square of the gradient, as a loss of forces has it. All modes of differentiation occur.

    Args:
      function: of `arguments`, to a tree of arrays.
      jit: whether to compile all of it.
      forces: that gradient is by the last argument alone, which is quicker to compile.
    """
    leaves, tree = jax.tree.flatten(arguments)
    rng = np.random.default_rng(0)
    along = jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=np.shape(x)), x.dtype) for x in leaves])

    def scalar(arguments: tuple[Any, ...]) -> jax.Array:
        return sum(jnp.sum(jnp.sin(x) * (1 + jnp.arange(x.size).reshape(x.shape) / x.size)) for x in jax.tree.leaves(function(*arguments)))

    def square(arguments: tuple[Any, ...]) -> jax.Array:
        gradient = jax.grad(lambda last: scalar((*arguments[:-1], last)))(arguments[-1]) if forces else jax.grad(scalar)(arguments)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(gradient))

    def everything(arguments: tuple[Any, ...]) -> dict[str, Any]:
        (value, gradient), (_, second) = jax.jvp(jax.value_and_grad(scalar), (arguments,), (along,))
        _, third = jax.jvp(jax.grad(square), (arguments,), (along,))
        return {"value": value, "gradient": gradient, "second": second, "third": third}

    return (jax.jit(everything) if jit else everything)(arguments)


def assert_parity(found: dict[str, Any], plain: dict[str, Any]) -> None:
    """All of `to_third_order` agree, and none is zero throughout."""
    for order, expected in plain.items():
        assert max(float(np.abs(x).max()) for x in jax.tree.leaves(expected)) > 1e-6, f"{order} is zero, and says nothing"
        for ours, theirs in zip(jax.tree.leaves(found[order]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=PARITY * np.abs(theirs).max(), err_msg=order)
