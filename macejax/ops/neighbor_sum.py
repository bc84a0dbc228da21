"""The sum over neighbours, with its coupling, as one operation with kernels for CUDA devices.

Messages are linear in each of three arrays of the edges,

    A[i, r, k] = sum_j sum_{(p, y, d, c) of row r} c R[i, j, p, k] Y[i, j, y] h[i, j, d, k],

and with a cotangent g of A the number sum_{i, r, k} g A is linear in each of four: R, Y, h and g. Its derivative by any of the four is a
function of the other three; the messages themselves are the one by g. These four functions are closed under differentiation: a tangent
takes the place of an argument, a transpose exchanges two of them. So one primitive has derivatives of every order, and no product over
neighbours, path and component is ever in memory.

A gradient asks for three of them at once, from the same R, Y, h and g. To see that it does, tangents are kept together in a second
primitive (`_tangent`), the transpose of which is a third (`_gradients`), with a kernel of its own. Both are sums, or tuples, of the first
and are differentiated as such.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

WEIGHTS, HARMONICS, FEATURES, MESSAGES = range(4)
NAMES = ("weights", "harmonics", "features", "messages")
EDGES = (WEIGHTS, HARMONICS, FEATURES)
Terms = tuple[tuple[int, int, int, float], ...]  # (path, harmonic, component of the feature, coefficient)
Rows = tuple[Terms, ...]

# Channels that one program of a kernel works on, a thread each. Gradients end in sums over channels, which are quickest within a warp.
_LANES = {"messages": 128, "gradients": 32}
# Programs that fill a large GPU: where atoms are fewer, their slots are shared out.
_ENOUGH_PROGRAMS = 4096
_use: bool | None = None


def use_kernels(use: bool | None) -> None:
    """Whether programs traced from now on use the kernels: None, the default, where there is a device for them."""
    global _use
    _use = use


def kernels_run() -> bool:
    """Whether programs that are being traced use the kernels."""
    if _use is not None:
        return _use
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version.lower()


def sum_neighbors(rows: Rows, weights: jax.Array, harmonics: jax.Array, features: jax.Array) -> jax.Array:
    """Messages [N, len(rows), K].

    Args:
      rows: terms of every component of the messages; every path, harmonic and component occurs.
      weights: R [N, M, P, K].
      harmonics: Y [N, M, Y].
      features: of the neighbours, h [N, M, D, K].
    """
    return _by(MESSAGES, rows, weights, harmonics, features)


def _by(which: int, rows: Rows, *others: jax.Array) -> jax.Array:
    """The derivative by array number `which`, from the other three in ascending order."""
    return _derivative.bind(*others, which=which, rows=rows)


def _others(which: int) -> list[int]:
    return [k for k in range(4) if k != which]


def _shape(which: int, shapes: dict[int, tuple[int, ...]], rows: Rows) -> tuple[int, ...]:
    num, slots = shapes[WEIGHTS if which != WEIGHTS else FEATURES][:2]
    channels = shapes[FEATURES if which != FEATURES else WEIGHTS][-1]
    paths, harmonics, components = _counts(rows)
    return {
        WEIGHTS: (num, slots, paths, channels),
        HARMONICS: (num, slots, harmonics),
        FEATURES: (num, slots, components, channels),
        MESSAGES: (num, len(rows), channels),
    }[which]


@functools.cache
def _counts(rows: Rows) -> tuple[int, int, int]:
    """Paths, harmonics, components of a feature."""
    terms = [term for row in rows for term in row]
    return 1 + max(p for p, *_ in terms), 1 + max(y for _, y, *_ in terms), 1 + max(d for _, _, d, _ in terms)


def _plain(*arguments: jax.Array, which: int, rows: Rows) -> jax.Array:
    """What the kernel computes, by one dense coupling tensor."""
    subscripts = {WEIGHTS: "njpk", HARMONICS: "njy", FEATURES: "njdk", MESSAGES: "nrk"}
    dense = np.zeros((len(rows), *_counts(rows)))
    for r, terms in enumerate(rows):
        for p, y, d, c in terms:
            dense[r, p, y, d] += c
    operands = ",".join(subscripts[k] for k in _others(which))
    return jnp.einsum(f"rpyd,{operands}->{subscripts[which]}", jnp.asarray(dense, arguments[0].dtype), *arguments)


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


def _call_kernel(kinds: tuple[int, ...], rows: Rows, *arguments: jax.Array, interpret: bool = False) -> list[jax.Array]:
    """The derivatives by `kinds`, either the messages alone or arrays of the edges."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    shapes = {k: x.shape for k, x in zip(_needed(kinds), arguments, strict=True)}
    for kind in kinds:
        shapes[kind] = _shape(kind, shapes, rows)
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


def _derivative_jvp(primals, tangents, *, which: int, rows: Rows):
    out = _by(which, rows, *primals)
    moving = {k: x for k, x in enumerate(tangents) if not isinstance(x, ad.Zero)}
    if not moving:
        return out, ad.Zero.from_primal_value(out)
    if which == MESSAGES and len(moving) == 3:
        return out, _tangent.bind(*primals, *tangents, rows=rows)
    parts = [_by(which, rows, *primals[:k], x, *primals[k + 1 :]) for k, x in moving.items()]
    return out, functools.reduce(jnp.add, parts)


def _derivative_transpose(cotangent, *arguments, which: int, rows: Rows):
    gradients: list[jax.Array | None] = [None, None, None]
    if not isinstance(cotangent, ad.Zero):
        (k,) = (k for k, argument in enumerate(arguments) if ad.is_undefined_primal(argument))
        arrays = dict(zip(_others(which), arguments, strict=True)) | {which: cotangent}
        asked = _others(which)[k]
        gradients[k] = _by(asked, rows, *(arrays[kind] for kind in _others(asked)))
    return gradients


def _tangent_plain(*arguments: jax.Array, rows: Rows) -> jax.Array:
    """Of messages, along tangents of all three arrays: the arrays, then the tangents."""
    arrays, tangents = arguments[:3], arguments[3:]
    parts = [_by(MESSAGES, rows, *arrays[:k], tangents[k], *arrays[k + 1 :]) for k in range(3)]
    return functools.reduce(jnp.add, parts)


def _tangent_transpose(cotangent, *arguments, rows: Rows):
    gradients: list[jax.Array | None] = [None] * 6
    if not isinstance(cotangent, ad.Zero):
        found = _gradients.bind(*arguments[:3], cotangent, rows=rows)
        gradients[3:] = [x if ad.is_undefined_primal(argument) else None for x, argument in zip(found, arguments[3:], strict=True)]
    return gradients


def _gradients_plain(weights: jax.Array, harmonics: jax.Array, features: jax.Array, cotangent: jax.Array, *, rows: Rows) -> list[jax.Array]:
    return [
        _by(WEIGHTS, rows, harmonics, features, cotangent),
        _by(HARMONICS, rows, weights, features, cotangent),
        _by(FEATURES, rows, weights, harmonics, cotangent),
    ]


def _gradients_transpose(cotangents, *arguments, rows: Rows):
    # Linear in the messages' cotangent alone, for nothing else is ever undefined: a function of more is differentiated by `_derivative`.
    arrays = arguments[:3]
    parts = [
        _by(MESSAGES, rows, *arrays[:k], cotangent, *arrays[k + 1 :])
        for k, cotangent in enumerate(cotangents)
        if not isinstance(cotangent, ad.Zero)
    ]
    return [None, None, None, functools.reduce(jnp.add, parts) if parts else None]


def _primitive(name: str, plain: Callable[..., Any], kernel: Callable[..., Any] | None, multiple: bool) -> Primitive:
    """A primitive of arrays that all have the atoms as leading axis; without a rule for derivatives it is differentiated as `plain`."""
    primitive = Primitive(name)
    primitive.multiple_results = multiple

    def abstract(*arguments, **params):
        shapes = jax.eval_shape(functools.partial(plain, **params), *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments))
        found = jax.tree.map(lambda x: jax.core.ShapedArray(x.shape, x.dtype), shapes)
        return found

    def jvp(primals, tangents, **params):
        def along(*moved):
            arguments = list(primals)
            for k, x in zip(moving, moved, strict=True):
                arguments[k] = x
            return plain(*arguments, **params)

        moving = [k for k, x in enumerate(tangents) if not isinstance(x, ad.Zero)]
        out = primitive.bind(*primals, **params)
        return out, jax.jvp(along, [primals[k] for k in moving], [tangents[k] for k in moving])[1]

    def batch(arguments, dims, **params):
        size = next(x.shape[dim] for x, dim in zip(arguments, dims, strict=True) if dim is not None)

        def merge(x: jax.Array, dim: int | None) -> jax.Array:
            x = jnp.broadcast_to(x, (size, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)
            return x.reshape(-1, *x.shape[2:])

        out = primitive.bind(*(merge(x, dim) for x, dim in zip(arguments, dims, strict=True)), **params)
        found = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out)
        return found, [0] * len(found) if multiple else 0

    primitive.def_impl(lambda *arguments, **params: jax.jit(functools.partial(primitive.bind, **params))(*arguments))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=multiple))
    if kernel is not None:
        mlir.register_lowering(primitive, mlir.lower_fun(kernel, multiple_results=multiple), platform="cuda")
    return primitive


_derivative = _primitive("sum_neighbors", _plain, lambda *x, which, rows: _call_kernel((which,), rows, *x)[0], False)
ad.primitive_jvps[_derivative] = _derivative_jvp
ad.primitive_transposes[_derivative] = _derivative_transpose
_tangent = _primitive("sum_neighbors_tangent", _tangent_plain, None, False)
ad.primitive_transposes[_tangent] = _tangent_transpose
_gradients = _primitive("sum_neighbors_gradients", _gradients_plain, lambda *x, rows: _call_kernel(EDGES, rows, *x), True)
ad.primitive_transposes[_gradients] = _gradients_transpose
