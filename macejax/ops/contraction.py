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
from macejax.ops.polynomial import Table, Term, polynomial

_ZERO = 1e-12  # coefficients below are rounding
_LARGE_BLOCKS = 4  # of work that streams through memory: only large loops are shared out among threads


# Polynomials of more terms than this are evaluated by a matrix product: straight-line code of that length takes too long to compile.
_MAX_TERMS = 1500


def contract(x: jax.Array, weights: Sequence[jax.Array], member: jax.Array, polynomials: Sequence[dict[int, np.ndarray]]) -> jax.Array:
    """Weighted polynomials of every channel of every atom.

    Args:
      x: features [N, (l_max + 1)^2, K].
      weights: for each output irrep, [S, R, K]: R counts its polynomials of all degrees, ascending.
      member: [N, S], 1 where the atom is of the species, else 0.
      polynomials: for each output irrep, degree -> coefficients [R_degree, 2l+1, monomials of that degree].

    Returns:
      [N, D, K], output irreps concatenated.
    """
    channels = x.shape[-1]
    all_weights = jnp.concatenate(weights, axis=1)
    rank = all_weights.shape[1]
    evaluate = _dense if sum(_num_terms(output) for output in polynomials) > _MAX_TERMS else _sparse

    def block(x: jax.Array, member: jax.Array) -> tuple[jax.Array]:
        per_atom = (member @ all_weights.reshape(-1, rank * channels)).reshape(-1, rank, channels)
        return (evaluate(x, per_atom, polynomials),)

    if evaluate is _sparse:  # nothing but arguments and results is in memory
        size = block_size((2 * x.shape[1] + rank) * channels * x.dtype.itemsize, x.shape[0], _LARGE_BLOCKS)
    else:
        kept = _kept_monomials(x.shape[1], polynomials)
        rows = sum(matrix.shape[0] * matrix.shape[1] for output in polynomials for matrix in output.values())
        size = block_size((sum(map(len, kept.values())) + rows) * channels * x.dtype.itemsize, x.shape[0])
    return map_blocks(block, (x, member), size)[0]


def _num_terms(output: dict[int, np.ndarray]) -> int:
    return sum(int(np.sum(np.abs(coefficients) > _ZERO)) for coefficients in output.values())


def _sparse(x: jax.Array, weights: jax.Array, polynomials: Sequence[dict[int, np.ndarray]]) -> jax.Array:
    """Every monomial of every polynomial written out: x [B, V, K], weights [B, R, K] of the atoms -> [B, D, K]."""
    rows: list[list[Term]] = []
    rank = 0
    for output in polynomials:
        components = next(iter(output.values())).shape[1]
        terms: list[list[Term]] = [[] for _ in range(components)]
        for degree, coefficients in sorted(output.items()):
            index = monomials(x.shape[1], degree).tolist()
            for r, m, q in np.argwhere(np.abs(coefficients) > _ZERO).tolist():
                variables = tuple((0, v) for v in index[q])
                terms[m].append((float(coefficients[r, m, q]), (*variables, (1, rank + r))))
            rank += len(coefficients)
        rows += terms
    return polynomial(Table([rows]), x, weights)[0]


def _dense(x: jax.Array, weights: jax.Array, polynomials: Sequence[dict[int, np.ndarray]]) -> jax.Array:
    """Every monomial that some polynomial needs once, all polynomials as one constant matrix times the monomials, then the weights; shapes
    as in `_sparse`.
    """
    atoms, num_variables, channels = x.shape
    kept = _kept_monomials(num_variables, polynomials)
    matrices = [_matrix(output, kept) for output in polynomials]  # each [R, 2l+1, monomials kept]
    constant = np.concatenate([matrix.reshape(-1, matrix.shape[-1]) for matrix in matrices])
    values = _evaluate_monomials(jnp.swapaxes(x, 0, 1).reshape(num_variables, -1), kept)  # [monomials, B * K]
    terms = jnp.matmul(jnp.asarray(constant, x.dtype), values)
    outputs, row, rank = [], 0, 0
    for matrix in matrices:
        r, m = matrix.shape[:2]
        term = terms[row : row + r * m].reshape(r, m, atoms, channels)
        outputs.append(jnp.einsum("rmnk,nrk->nmk", term, weights[:, rank : rank + r]))
        row, rank = row + r * m, rank + r
    return jnp.concatenate(outputs, axis=1)


def _kept_monomials(num_variables: int, polynomials: Sequence[dict[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Degree -> positions among all monomials of that degree, of those that a polynomial or a kept monomial of the degree above needs."""
    kept: dict[int, np.ndarray] = {}
    above = np.zeros(0, np.int64)
    for degree in range(max(max(output) for output in polynomials), 0, -1):
        used = sum((np.abs(output[degree]).sum((0, 1)) for output in polynomials if degree in output), np.zeros(1))
        kept[degree] = np.union1d(np.flatnonzero(used > _ZERO), above)
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
