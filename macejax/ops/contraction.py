"""Symmetric contraction: polynomials of one feature, up to body order nu + 1 (MACE, Batatia et al. 2022, eq. 10)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from macejax.ops.blocks import block_size, map_blocks


def contract(x: jax.Array, weights: Sequence[jax.Array], member: jax.Array, polynomials: Sequence[dict[int, np.ndarray]]) -> jax.Array:
    """Weighted polynomials of every channel of every atom.

    Every monomial that some polynomial needs is computed once, all polynomials are one constant matrix times the monomials, and the
    species' weights come last.

    Args:
      x: features [N, (l_max + 1)^2, K].
      weights: for each output irrep, [S, R, K]: R counts its polynomials of all degrees, ascending.
      member: [N, S], 1 where the atom is of the species, else 0.
      polynomials: for each output irrep, degree -> coefficients [R_degree, 2l+1, monomials of that degree].

    Returns:
      [N, D, K], output irreps concatenated.
    """
    num_variables, channels = x.shape[1:]
    needed = _needed_monomials(num_variables, polynomials)
    matrices = [_matrix(output, needed) for output in polynomials]  # each [R, 2l+1, monomials kept]
    constant = np.concatenate([matrix.reshape(-1, matrix.shape[-1]) for matrix in matrices])
    all_weights = jnp.concatenate(weights, axis=1)

    def block(x: jax.Array, member: jax.Array) -> tuple[jax.Array]:
        atoms = x.shape[0]
        values = _evaluate_monomials(jnp.swapaxes(x, 0, 1).reshape(num_variables, -1), needed)  # [monomials, B * K]
        terms = jnp.matmul(jnp.asarray(constant, x.dtype), values)
        per_atom = jnp.einsum("ns,srk->rnk", member, all_weights)
        outputs, row, rank = [], 0, 0
        for matrix in matrices:
            r, m = matrix.shape[:2]
            term = terms[row : row + r * m].reshape(r, m, atoms, channels)
            outputs.append(jnp.einsum("rmnk,rnk->nmk", term, per_atom[rank : rank + r]))
            row, rank = row + r * m, rank + r
        return (jnp.concatenate(outputs, axis=1),)

    num_values = sum(len(index) for index in needed.values()) + len(constant)
    size = block_size(num_values * channels * x.dtype.itemsize, x.shape[0])
    return map_blocks(block, (x, member), size)[0]


def _needed_monomials(num_variables: int, polynomials: Sequence[dict[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Degree -> positions, among all monomials of that degree, of those with a non-zero coefficient."""
    degrees = sorted({degree for output in polynomials for degree in output})
    needed = {}
    for degree in degrees:
        used = sum(np.abs(output[degree]).sum((0, 1)) for output in polynomials if degree in output)
        needed[degree] = np.flatnonzero(np.asarray(used) > 1e-12)
    return needed


def _matrix(output: dict[int, np.ndarray], needed: dict[int, np.ndarray]) -> np.ndarray:
    """Coefficients [R, 2l+1, all kept monomials] of one output irrep, degrees ascending."""
    total = sum(len(index) for index in needed.values())
    rows, start = [], 0
    for degree, index in needed.items():
        if degree in output:
            coefficients = output[degree][:, :, index]
            padded = np.zeros(coefficients.shape[:2] + (total,))
            padded[:, :, start : start + len(index)] = coefficients
            rows.append(padded)
        start += len(index)
    return np.concatenate(rows)


def _evaluate_monomials(x: jax.Array, needed: dict[int, np.ndarray]) -> jax.Array:
    """Needed monomials [count, C] of variables x [V, C]: each is one variable times a monomial of the degree below."""
    wanted = {degree: monomials(x.shape[0], degree)[index] for degree, index in needed.items()}
    # Walking down, every degree must also hold the tails of the degree above.
    tails: dict[int, Any] = {}
    for degree in range(max(wanted), 0, -1):
        rows = {tuple(row) for row in wanted.get(degree, np.zeros((0, degree), np.int64)).tolist()}
        if degree + 1 in tails:
            rows |= {row[1:] for row in tails[degree + 1]}
        tails[degree] = sorted(rows)
    values = {1: x[np.array([row[0] for row in tails[1]])]}
    position = {1: {row: k for k, row in enumerate(tails[1])}}
    for degree in range(2, max(wanted) + 1):
        head = np.array([row[0] for row in tails[degree]])
        tail = np.array([position[degree - 1][row[1:]] for row in tails[degree]])
        values[degree] = x[head] * values[degree - 1][tail]
        position[degree] = {row: k for k, row in enumerate(tails[degree])}
    picked = []
    for degree, rows in wanted.items():
        index = np.array([position[degree][tuple(row)] for row in rows.tolist()])
        whole = len(index) == len(tails[degree]) and np.array_equal(index, np.arange(len(index)))
        picked.append(values[degree] if whole else values[degree][index])
    return jnp.concatenate(picked)


@functools.cache
def monomials(num_variables: int, degree: int) -> np.ndarray:
    """Exponent-free monomials: sorted index tuples [count, degree], lexicographic."""
    return np.array(list(itertools.combinations_with_replacement(range(num_variables), degree)), np.int64).reshape(-1, degree)
