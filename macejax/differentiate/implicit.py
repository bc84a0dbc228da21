"""Derivatives of what is at rest: a relaxed structure, a lattice constant, a transition state.

Where x makes the energy stationary, g(theta, x) = dE/dx = 0, the implicit function theorem gives dx/dtheta = -H^-1 dg/dtheta with the
Hessian H = d2E/dx2 (Blondel et al., NeurIPS 2022). Only products of H with vectors are taken, and nothing is known of how x was found:
with ASE, by Newton's method, or read from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from macejax.differentiate.errors import DerivativeError

Energy = Callable[[Any, Any], jax.Array]  # (params, x) -> eV, x any tree of arrays
HIGHEST = jax.lax.Precision.HIGHEST
LinearSolve = Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array]  # (H v, b [n]) -> H^-1 b


def conjugate_gradient(tolerance: float = 1e-10, most: int | None = None) -> LinearSolve:
    """Conjugate gradients, for minima: H must not be negative in any direction.

    Directions in which nothing happens, such as those of a shift of the whole, are never entered: neither b nor H v has a part of them.

    Args:
      tolerance: of the residual, relative to b; never finer than ten times what the dtype resolves.
      most: steps; ten times the number of unknowns where it is not given.
    """

    def iterate(product: Callable[[jax.Array], jax.Array], b: jax.Array) -> jax.Array:
        limit = jnp.maximum(tolerance, 10 * jnp.finfo(b.dtype).eps) ** 2 * jnp.vdot(b, b)

        def unfinished(state: tuple[jax.Array, ...]) -> jax.Array:
            square, _, stuck, count = state[3:]
            return (square > limit) & ~stuck & (count < (most or 10 * b.size))

        def step(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            x, residual, direction, square, stiffest, _, count = state
            along = product(direction)
            curvature = jnp.vdot(direction, along) / jnp.vdot(direction, direction)
            stiffest = jnp.maximum(stiffest, jnp.abs(curvature))
            # What is left lies where nothing happens (rounding puts it there): a step would be huge, and mean nothing.
            stuck = jnp.abs(curvature) <= 100 * jnp.finfo(b.dtype).eps * stiffest
            length = jnp.where(stuck, 0, square / jnp.where(stuck, 1, jnp.vdot(direction, along)))
            residual = residual - length * along
            after = jnp.vdot(residual, residual)
            return x + length * direction, residual, residual + after / square * direction, after, stiffest, stuck, count + 1

        begin = (jnp.zeros_like(b), b, b, jnp.vdot(b, b), jnp.zeros((), b.dtype), jnp.asarray(False), 0)
        return jax.lax.while_loop(unfinished, step, begin)[0]

    return _differentiable(iterate)


def dense(smallest: float = 1e-6) -> LinearSolve:
    """The whole matrix and its eigenvectors, for minima and saddle points alike; for some hundred unknowns.

    Args:
      smallest: eigenvalues below this part of the largest are those of shifts and rotations of the whole, and count as zero.
    """

    def invert(product: Callable[[jax.Array], jax.Array], b: jax.Array) -> jax.Array:
        matrix = jax.lax.map(product, jnp.eye(b.size, dtype=b.dtype), batch_size=min(32, b.size))
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
        used = jnp.abs(values) > smallest * jnp.max(jnp.abs(values))
        inverse = jnp.where(used, 1 / jnp.where(used, values, 1), 0)
        return jnp.matmul(vectors, inverse * jnp.matmul(vectors.T, b, precision=HIGHEST), precision=HIGHEST)

    return _differentiable(invert)


def _differentiable(solve: LinearSolve) -> LinearSolve:
    """The derivative of a solution is another solution, not that of the way to it; and H, being symmetric, is its own transpose."""
    return lambda product, b: jax.lax.custom_linear_solve(product, b, solve, symmetric=True)


def stationary_point(
    energy: Energy, params: Any, near: Any, *, newton_steps: int = 8, linear_solve: LinearSolve | None = None
) -> tuple[Any, jax.Array]:
    """The point near `near` at which the energy is stationary, differentiable by `params`.

    Newton steps, x <- x - H^-1 g, find it; start where a relaxation has ended. The derivative does not pass through them, and does not
    depend on `near`.

    Args:
      energy: function `(params, x) -> eV` that is smooth in both.
      params: parameters, any tree.
      near: x to start from, any tree of arrays: positions, a strain, both.
      newton_steps: how many; each doubles the digits. 0 takes `near` as it is.
      linear_solve: `conjugate_gradient()` for a minimum, which is what None means; `dense()` for a saddle point.

    Returns:
      x, and the largest component of the gradient that is left (eV per unit of x), for `refuse_unsettled`.
    """
    solve = conjugate_gradient() if linear_solve is None else linear_solve
    start, unravel = ravel_pytree(near)
    start = jax.lax.stop_gradient(start)

    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: energy(params, unravel(x)))(x)

    def newton(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            value, product = jax.linearize(function, x)
            return x - solve(product, value), None

        return jax.lax.scan(step, x, None, length=newton_steps)[0]

    x = jax.lax.custom_root(gradient, start, newton, solve)
    return unravel(x), jnp.max(jnp.abs(jax.lax.stop_gradient(gradient(x))))


def refuse_unsettled(residual: jax.Array, largest: float = 1e-6) -> None:
    """Raise DerivativeError where the gradient that is left (eV per unit of x) exceeds `largest`. Call it outside of jit."""
    if not float(np.max(residual)) <= largest:
        raise DerivativeError(
            f"the point is not stationary: a component of the gradient is {float(np.max(residual)):.3g}, above {largest:g}. Start "
            f"nearer to it (relax first), take more Newton steps, or, at a saddle point, the linear solver `dense()`."
        )
