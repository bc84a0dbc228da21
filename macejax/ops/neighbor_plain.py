"""`neighbor_sum` in plain XLA.

Messages are sums of components of S[i, y, (p, d), k] = sum_j Y[i, j, y] R[i, j, p, k] h[i, j, d, k]. With the products R h, written out by
straight-line code, S is a matrix product for each degree of the harmonics (several, where that has many pairs of p and d), and the
derivative by Y another, with the cotangent of S. The derivatives by R and h are straight-line code alone, sums over y of Y times the
cotangent of S times the other of the two: there is no array of the products' cotangents, which autodiff would have.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from macejax.ops.neighbor_terms import FEATURES, HARMONICS, MESSAGES, WEIGHTS, Rows, counts_of, others
from macejax.ops.polynomial import Table, Term, polynomial
from macejax.ops.slots import sum_slots

# Rows that one result of a polynomial has: of more, XLA:CPU makes a loop for each, and then copies them together.
_MOST_ROWS = 8
Item = TypeVar("Item")


class _Group(NamedTuple):
    """Products of one degree of the harmonics."""

    harmonics: tuple[int, int]  # from, to
    pairs: tuple[tuple[int, int], ...]  # (path, component of the feature), at most `_MOST_ROWS`

    def place(self, y: int, pair: tuple[int, int]) -> int:
        """The row of this group's sums, [harmonics * pairs]."""
        return (y - self.harmonics[0]) * len(self.pairs) + self.pairs.index(pair)


def derivative(which: int, rows: Rows, *arguments: jax.Array) -> jax.Array:
    """The derivative by array number `which`, from the other three in ascending order."""
    arrays = dict(zip(others(which), arguments, strict=True))
    if which == MESSAGES:
        return _couple(rows, _sums(rows, *arguments))
    sums = _uncouple(rows, arrays[MESSAGES])
    if which == WEIGHTS:
        return _by_weights(rows, arrays[HARMONICS], arrays[FEATURES], sums)
    if which == FEATURES:
        return _by_features(rows, arrays[WEIGHTS], arrays[HARMONICS], sums)
    return _by_harmonics(rows, arrays[WEIGHTS], arrays[FEATURES], sums)


def gradients(rows: Rows, weights: jax.Array, harmonics: jax.Array, features: jax.Array, cotangent: jax.Array) -> list[jax.Array]:
    """The derivatives by the three arrays of the edges."""
    sums = _uncouple(rows, cotangent)
    return [
        _by_weights(rows, harmonics, features, sums),
        _by_harmonics(rows, weights, features, sums),
        _by_features(rows, weights, harmonics, sums),
    ]


def tangent(rows: Rows, *arguments: jax.Array) -> jax.Array:
    """Of messages, along tangents of all three arrays: the arrays, then the tangents."""
    weights, harmonics, features, *tangents = arguments
    products = polynomial(_products(rows), weights, features)
    moved = polynomial(_product_tangents(rows), weights, features, tangents[0], tangents[2])
    parts = [
        _group_sums(tangents[1], group, product) + _group_sums(harmonics, group, along)
        for group, product, along in zip(_groups(rows), products, moved, strict=True)
    ]
    return _couple(rows, parts)


def _sums(rows: Rows, weights: jax.Array, harmonics: jax.Array, features: jax.Array) -> list[jax.Array]:
    """S of every group, [N, harmonics * pairs, K]."""
    products = polynomial(_products(rows), weights, features)
    return [_group_sums(harmonics, group, product) for group, product in zip(_groups(rows), products, strict=True)]


def _group_sums(harmonics: jax.Array, group: _Group, product: jax.Array) -> jax.Array:
    """S of a group, [N, M, Y] x [N, M, pairs, K] -> [N, harmonics * pairs, K]."""
    num, slots, pairs, channels = product.shape
    transposed = jnp.swapaxes(harmonics, 1, 2)  # the layout in which XLA:CPU has a fast batched product
    found = sum_slots(transposed[:, slice(*group.harmonics)], product.reshape(num, slots, pairs * channels))
    return found.reshape(num, found.shape[1] * pairs, channels)


def _couple(rows: Rows, sums: list[jax.Array]) -> jax.Array:
    """Messages, of every group's sums."""
    return jnp.concatenate(polynomial(_coupling(rows), *sums), axis=1)


def _uncouple(rows: Rows, cotangent: jax.Array) -> tuple[jax.Array, ...]:
    """The cotangent of every group's sums."""
    return polynomial(_uncoupling(rows), cotangent)


def _by_weights(rows: Rows, harmonics: jax.Array, features: jax.Array, sums: tuple[jax.Array, ...]) -> jax.Array:
    return _join(polynomial(_edge_table(rows, WEIGHTS), *_spread(harmonics, sums, features), features))


def _by_features(rows: Rows, weights: jax.Array, harmonics: jax.Array, sums: tuple[jax.Array, ...]) -> jax.Array:
    return _join(polynomial(_edge_table(rows, FEATURES), *_spread(harmonics, sums, weights), weights))


def _by_harmonics(rows: Rows, weights: jax.Array, features: jax.Array, sums: tuple[jax.Array, ...]) -> jax.Array:
    found: dict[tuple[int, int], jax.Array] = {}
    for group, product, cotangent in zip(_groups(rows), polynomial(_products(rows), weights, features), sums, strict=True):
        num, slots, pairs, channels = product.shape
        first, last = group.harmonics
        by_pair = cotangent.reshape(num, last - first, pairs * channels)
        # At least two columns: XLA:CPU's product with one rounds as the number of slots has it.
        by_pair = jnp.pad(by_pair, ((0, 0), (0, max(2 - (last - first), 0)), (0, 0)))
        # In this order, not the other and transposed: half of the time on a CPU.
        part = jnp.matmul(product.reshape(num, slots, pairs * channels), jnp.swapaxes(by_pair, 1, 2))[..., : last - first]
        found[group.harmonics] = found[group.harmonics] + part if group.harmonics in found else part
    columns, end = [], 0
    for (first, last), part in found.items():
        columns += [jnp.zeros((*part.shape[:2], first - end), part.dtype)] * (first > end) + [part]
        end = last
    return jnp.concatenate(columns, axis=2)


def _spread(harmonics: jax.Array, sums: tuple[jax.Array, ...], like: jax.Array) -> list[jax.Array]:
    """Harmonics on all channels, cotangents of sums on all slots: XLA fuses them into the loops that read them."""
    num, slots, _, channels = like.shape
    spread = [jnp.broadcast_to(x[:, None], (num, slots, *x.shape[1:])) for x in sums]
    return [jnp.broadcast_to(harmonics[..., None], (*harmonics.shape, channels)), *spread]


def _join(parts: tuple[jax.Array, ...]) -> jax.Array:
    """[N, M, Q, K], of parts of its rows; joined as lanes, lest XLA makes one concatenation of all rows."""
    num, slots, _, channels = parts[0].shape
    total = sum(part.shape[2] for part in parts)
    lanes = [part.reshape(num, slots, part.shape[2] * channels) for part in parts]
    return jnp.concatenate(lanes, axis=2).reshape(num, slots, total, channels)


@functools.cache
def _groups(rows: Rows) -> tuple[_Group, ...]:
    """Degrees of the harmonics ascending; all harmonics of a degree are there, whether a term has them or not."""
    pairs: dict[int, list[tuple[int, int]]] = {}
    for p, y, d in sorted({(p, y, d) for row in rows for p, y, d, _ in row}):
        found = pairs.setdefault(math.isqrt(y), [])
        if (p, d) not in found:
            found.append((p, d))
    angular = counts_of(rows)[1]
    groups = []
    for degree in range(math.isqrt(angular - 1) + 1):
        place = degree**2, min((degree + 1) ** 2, angular)
        groups += [_Group(place, part) for part in _chunks(pairs.get(degree, []))]
    return tuple(groups)


@functools.cache
def _products(rows: Rows) -> Table:
    """(weights, features) -> products of every group."""
    return Table([[(1.0, ((0, p), (1, d)))] for p, d in group.pairs] for group in _groups(rows))


@functools.cache
def _product_tangents(rows: Rows) -> Table:
    """(weights, features, tangents of both) -> tangents of products."""
    return Table([[(1.0, ((2, p), (1, d))), (1.0, ((0, p), (3, d)))] for p, d in group.pairs] for group in _groups(rows))


@functools.cache
def _coupling(rows: Rows) -> Table:
    """Sums of every group -> messages."""
    return Table(_chunks([[(c, ((g, place),)) for g, place, c in _places(rows, row)] for row in range(len(rows))]))


@functools.cache
def _uncoupling(rows: Rows) -> Table:
    """Messages' cotangent -> that of every group's sums."""
    results: list[list[list[Term]]] = [
        [[] for _ in range((group.harmonics[1] - group.harmonics[0]) * len(group.pairs))] for group in _groups(rows)
    ]
    for row in range(len(rows)):
        for g, place, c in _places(rows, row):
            results[g][place].append((c, ((0, row),)))
    return Table(results)


@functools.cache
def _edge_table(rows: Rows, which: int) -> Table:
    """(harmonics, cotangents of every group's sums, features or weights) -> derivative by weights or features."""
    paths, _, components = counts_of(rows)
    groups = _groups(rows)
    terms: list[list[Term]] = [[] for _ in range(paths if which == WEIGHTS else components)]
    for g, group in enumerate(groups):
        for (p, d), y in itertools.product(group.pairs, range(*group.harmonics)):
            own, other = (p, d) if which == WEIGHTS else (d, p)
            terms[own].append((1.0, ((0, y), (1 + g, group.place(y, (p, d))), (1 + len(groups), other))))
    return Table(_chunks(terms))


def _places(rows: Rows, row: int) -> list[tuple[int, int, float]]:
    """Of every term of a row, its group, its place there, and its coefficient."""
    groups = _groups(rows)
    found = []
    for p, y, d, c in rows[row]:
        (g,) = (g for g, group in enumerate(groups) if group.harmonics[0] <= y < group.harmonics[1] and (p, d) in group.pairs)
        found.append((g, groups[g].place(y, (p, d)), c))
    return found


def _chunks(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    return [tuple(items[k : k + _MOST_ROWS]) for k in range(0, len(items), _MOST_ROWS)]
