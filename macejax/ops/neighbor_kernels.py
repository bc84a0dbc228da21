"""The kernels of `neighbor_sum`, in Pallas for Triton: each program has some slots of one atom and one group of channels."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from macejax.ops.neighbor_terms import FEATURES, HARMONICS, MESSAGES, NAMES, WEIGHTS, Rows, Terms, shape_of

# Channels that one program of a kernel works on, a thread each. Gradients end in sums over channels, which are quickest within a warp.
_LANES = {"messages": 128, "gradients": 32}
# Programs that fill a large GPU: where atoms are fewer, their slots are shared out.
_ENOUGH_PROGRAMS = 4096


def _messages_kernel(rows: Rows, weights: Any, harmonics: Any, features: Any, messages: Any) -> None:
    """Some slots of one atom, one group of channels: refs [M, P, lanes], [M, Y], [M, D, lanes] -> [R, lanes]."""

    def slot(j: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        edge = _Slot(weights, harmonics, features, j)
        return tuple(
            functools.reduce(jnp.add, [edge.coupled(terms) * edge.product(p, d) for (p, d), terms in _by_pair(row)], total)
            for total, row in zip(sums, rows, strict=True)
        )

    zero = jnp.zeros(weights.shape[2:], weights.dtype)
    sums = jax.lax.fori_loop(0, weights.shape[0], slot, (zero,) * len(rows))
    for r, total in enumerate(sums):
        messages[r, :] = total


def _gradients_kernel(kinds: Sequence[int], rows: Rows, *refs: Any) -> None:
    """Derivatives by the arrays `kinds` of the edges: refs of the arrays that are needed (those of the edges as above, [R, lanes]), then of
    the results.
    """
    needed = _needed(kinds)
    given, results = dict(zip(needed, refs, strict=False)), dict(zip(kinds, refs[len(needed) :], strict=True))
    cotangent = [given[MESSAGES][r, :] for r in range(len(rows))]

    def slot(j: jax.Array, _: None) -> None:
        edge = _Slot(given.get(WEIGHTS), given.get(HARMONICS), given.get(FEATURES), j)
        sums: dict[tuple[int, int], jax.Array] = {}

        def add(kind: int, place: int, x: jax.Array) -> None:
            sums[kind, place] = sums[kind, place] + x if (kind, place) in sums else x

        for r, row in enumerate(rows):
            for (p, d), terms in _by_pair(row):
                if WEIGHTS in kinds or FEATURES in kinds:
                    coupled = edge.coupled(terms) * cotangent[r]
                    if WEIGHTS in kinds:
                        add(WEIGHTS, p, coupled * edge.load(FEATURES, d))
                    if FEATURES in kinds:
                        add(FEATURES, d, coupled * edge.load(WEIGHTS, p))
                if HARMONICS in kinds:
                    product = cotangent[r] * edge.product(p, d)
                    for y, c in terms:
                        add(HARMONICS, y, product * jnp.asarray(c, product.dtype))
        for (kind, place), x in sums.items():
            if kind == HARMONICS:
                results[kind][j, place] = jnp.sum(x)
            else:
                results[kind][j, place, :] = x

    jax.lax.fori_loop(0, refs[len(needed)].shape[0], slot, None)


class _Slot:
    """What a kernel reads of one slot, once."""

    def __init__(self, weights: Any, harmonics: Any, features: Any, j: jax.Array) -> None:
        self._refs = {WEIGHTS: weights, HARMONICS: harmonics, FEATURES: features}
        self._j = j
        self.load = functools.cache(self._load)
        self.product = functools.cache(lambda p, d: self.load(WEIGHTS, p) * self.load(FEATURES, d))

    def _load(self, kind: int, place: int) -> jax.Array:
        return self._refs[kind][self._j, place] if kind == HARMONICS else self._refs[kind][self._j, place, :]

    def coupled(self, terms: Sequence[tuple[int, float]]) -> jax.Array:
        harmonics = [self.load(HARMONICS, y) for y, _ in terms]
        return functools.reduce(jnp.add, [x * jnp.asarray(c, x.dtype) for x, (_, c) in zip(harmonics, terms, strict=True)])


def _by_pair(row: Terms) -> list[tuple[tuple[int, int], list[tuple[int, float]]]]:
    """Terms (harmonic, coefficient) of each pair of path and component."""
    pairs: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for p, y, d, c in row:
        pairs.setdefault((p, d), []).append((y, c))
    return list(pairs.items())


def _needed(kinds: Sequence[int]) -> list[int]:
    """Arrays that derivatives by `kinds` are functions of."""
    return [k for k in range(4) if tuple(kinds) != (k,)]


def call_kernel(kinds: tuple[int, ...], rows: Rows, *arguments: jax.Array, interpret: bool = False) -> list[jax.Array]:
    """The derivatives by `kinds`, either the messages alone or arrays of the edges."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    shapes = {k: x.shape for k, x in zip(_needed(kinds), arguments, strict=True)}
    for kind in kinds:
        shapes[kind] = shape_of(kind, shapes, rows)
    num, slots = shapes[HARMONICS][:2]
    channels = shapes[FEATURES][-1]
    messages = kinds == (MESSAGES,)
    lanes = min(channels & -channels, _LANES["messages" if messages else "gradients"])  # a power of two that divides them
    groups, parts = channels // lanes, 1
    while slots % (2 * parts) == 0 and num * groups * parts < _ENOUGH_PROGRAMS:
        parts *= 2
    each = slots // parts

    def edges(count: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, each, count, lanes), lambda n, k, part: (n, part, 0, k))

    specs = {
        WEIGHTS: edges(shapes[WEIGHTS][2]),
        HARMONICS: pl.BlockSpec((None, each, shapes[HARMONICS][2]), lambda n, k, part: (n, part, 0)),
        FEATURES: edges(shapes[FEATURES][2]),
        MESSAGES: pl.BlockSpec((None, len(rows), lanes), lambda n, k, part: (n, 0, k)),
    }
    # Sums over what programs share, channels or slots, are finished afterwards.
    in_parts = {
        HARMONICS: (groups, pl.BlockSpec((None, None, each, shapes[HARMONICS][2]), lambda n, k, part: (k, n, part, 0))),
        MESSAGES: (parts, pl.BlockSpec((None, None, len(rows), lanes), lambda n, k, part: (part, n, 0, k))),
    }
    out_specs, out_shapes = [], []
    for kind in kinds:
        count, spec = in_parts.get(kind, (None, specs[kind]))
        shape = shapes[kind] if count is None else (count, *shapes[kind])
        out_specs.append(spec)
        out_shapes.append(jax.ShapeDtypeStruct(shape, arguments[0].dtype))
    kernel = _messages_kernel if messages else functools.partial(_gradients_kernel, kinds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The Pallas Triton backend", category=DeprecationWarning)
        results = pl.pallas_call(
            functools.partial(kernel, rows),
            grid=(num, groups, parts),
            in_specs=[specs[k] for k in _needed(kinds)],
            out_specs=out_specs,
            out_shape=out_shapes,
            compiler_params=triton.CompilerParams(num_warps=max(lanes // 32, 1)),
            interpret=interpret,
            name="sum_neighbors_" + "_".join(NAMES[kind] for kind in kinds),
        )(*arguments)
    return [jnp.sum(x, axis=0) if kind in in_parts else x for kind, x in zip(kinds, results, strict=True)]
