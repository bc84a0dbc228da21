"""Symmetric contraction: polynomials of one feature, up to body order nu + 1 (MACE, Batatia et al. 2022, eq. 10)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from macejax.ops.blocks import block_size, map_blocks
from macejax.ops.gather import select_rows


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
    kept = _kept_monomials(num_variables, polynomials)
    matrices = [_matrix(output, kept) for output in polynomials]  # each [R, 2l+1, monomials kept]
    constant = np.concatenate([matrix.reshape(-1, matrix.shape[-1]) for matrix in matrices])
    all_weights = jnp.concatenate(weights, axis=1)

    def block(x: jax.Array, member: jax.Array) -> tuple[jax.Array]:
        atoms = x.shape[0]
        values = _evaluate_monomials(jnp.swapaxes(x, 0, 1).reshape(num_variables, -1), kept)  # [monomials, B * K]
        terms = jnp.matmul(jnp.asarray(constant, x.dtype), values)
        per_atom = jnp.einsum("ns,srk->rnk", member, all_weights)
        outputs, row, rank = [], 0, 0
        for matrix in matrices:
            r, m = matrix.shape[:2]
            term = terms[row : row + r * m].reshape(r, m, atoms, channels)
            outputs.append(jnp.einsum("rmnk,rnk->nmk", term, per_atom[rank : rank + r]))
            row, rank = row + r * m, rank + r
        return (jnp.concatenate(outputs, axis=1),)

    num_values = sum(len(index) for index in kept.values()) + len(constant)
    size = block_size(num_values * channels * x.dtype.itemsize, x.shape[0])
    return map_blocks(block, (x, member), size)[0]


def _kept_monomials(num_variables: int, polynomials: Sequence[dict[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Degree -> positions among all monomials of that degree, of those that a polynomial or a kept monomial of the degree above needs."""
    kept: dict[int, np.ndarray] = {}
    above = np.zeros(0, np.int64)
    for degree in range(max(max(output) for output in polynomials), 0, -1):
        used = sum((np.abs(output[degree]).sum((0, 1)) for output in polynomials if degree in output), np.zeros(1))
        kept[degree] = np.union1d(np.flatnonzero(used > 1e-12), above)
        above = _tails(num_variables, degree)[kept[degree]] if degree > 1 else above
    return dict(sorted(kept.items()))


@functools.cache
def _tails(num_variables: int, degree: int) -> np.ndarray:
    """Position, among the monomials of the degree below, of each monomial without its first variable."""
    position = {tuple(row): k for k, row in enumerate(monomials(num_variables, degree - 1).tolist())}
    return np.array([position[tuple(row[1:])] for row in monomials(num_variables, degree).tolist()])


def _matrix(output: dict[int, np.ndarray], kept: dict[int, np.ndarray]) -> np.ndarray:
    """Coefficients [R, 2l+1, all kept monomials] of one output irrep, degrees ascending."""
    total = sum(len(index) for index in kept.values())
    rows, start = [], 0
    for degree, index in kept.items():
        if degree in output:
            coefficients = output[degree][:, :, index]
            padded = np.zeros(coefficients.shape[:2] + (total,))
            padded[:, :, start : start + len(index)] = coefficients
            rows.append(padded)
        start += len(index)
    return np.concatenate(rows)


def _evaluate_monomials(x: jax.Array, kept: dict[int, np.ndarray]) -> jax.Array:
    """Kept monomials [count, C] of variables x [V, C], degrees ascending: each is one variable times a monomial of the degree below."""
    num_variables = x.shape[0]
    values = [select_rows(x, kept[1])]
    for degree in range(2, max(kept) + 1):
        head = monomials(num_variables, degree)[kept[degree], 0]
        tail = np.searchsorted(kept[degree - 1], _tails(num_variables, degree)[kept[degree]])
        # The variables are few: a product with zeros and ones has a cheaper transpose than a selection.
        one_hot = jnp.asarray(head[:, None] == np.arange(num_variables), x.dtype)
        values.append((one_hot @ x) * select_rows(values[-1], tail))
    return jnp.concatenate(values)


@functools.cache
def monomials(num_variables: int, degree: int) -> np.ndarray:
    """Exponent-free monomials: sorted index tuples [count, degree], lexicographic."""
    return np.array(list(itertools.combinations_with_replacement(range(num_variables), degree)), np.int64).reshape(-1, degree)
