"""The sum over neighbours, with its coupling, as one operation: in plain XLA, and with kernels for CUDA devices.

Messages are linear in each of three arrays of the edges,

    A[i, r, k] = sum_j sum_{(p, y, d, c) of row r} c R[i, j, p, k] Y[i, j, y] h[i, j, d, k],

and with a cotangent g of A the number sum_{i, r, k} g A is linear in each of four: R, Y, h and g. Its derivative by any of the four is a
function of the other three; the messages themselves are the one by g. These four functions are closed under differentiation: a tangent
takes the place of an argument, a transpose exchanges two of them. So one primitive has derivatives of every order, and each of the four
can be written as its machine has it best, which is not how autodiff would write the derivatives of the first.

A gradient asks for three of them at once, from the same R, Y, h and g. To see that it does, tangents are kept together in a second
primitive (`_tangent`), the transpose of which is a third (`_gradients`). Both are sums, or tuples, of the first and are differentiated as
such.

| back end | file |
|---|---|
| plain XLA | `neighbor_plain.py` |
| CUDA | `neighbor_kernels.py` |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from macejax.ops import neighbor_plain
from macejax.ops.neighbor_kernels import call_kernel
from macejax.ops.neighbor_terms import EDGES, FEATURES, HARMONICS, MESSAGES, WEIGHTS, Rows, counts_of, others, shape_of

_use = True


class _How(NamedTuple):
    """What is fixed when a program is traced."""

    kernels: bool  # where there is a device for them
    precision: Any  # of matrix products


def use_kernels(use: bool) -> None:
    """Whether functions traced from now on use the kernels, where there is a device for them; what has been traced stays as it is."""
    global _use
    _use = bool(use)


def sum_neighbors(rows: Rows, weights: jax.Array, harmonics: jax.Array, features: jax.Array) -> jax.Array:
    """Messages [N, len(rows), K].

    Args:
      rows: terms of every component of the messages. Paths, harmonics and components behind the last ones that occur have no effect.
      weights: R [N, M, P, K].
      harmonics: Y [N, M, Y].
      features: of the neighbours, h [N, M, D, K].
    """
    paths, angular, components = counts_of(rows)
    used = weights[:, :, :paths], harmonics[:, :, :angular], features[:, :, :components]
    dtype = jnp.result_type(*used)
    how = _How(_use, jax.config.jax_default_matmul_precision)
    return _by(MESSAGES, rows, how, *(x.astype(dtype) for x in used))


def _by(which: int, rows: Rows, how: _How, *arrays: jax.Array) -> jax.Array:
    """The derivative by array number `which`, from the other three in ascending order."""
    return _derivative.bind(*arrays, which=which, rows=rows, how=how)


def _derivative_jvp(primals, tangents, *, which: int, rows: Rows, how: _How):
    out = _by(which, rows, how, *primals)
    moving = {k: x for k, x in enumerate(tangents) if not isinstance(x, ad.Zero)}
    if not moving:
        return out, ad.Zero.from_primal_value(out)
    if which == MESSAGES and len(moving) == 3:
        return out, _tangent.bind(*primals, *tangents, rows=rows, how=how)
    parts = [_by(which, rows, how, *primals[:k], x, *primals[k + 1 :]) for k, x in moving.items()]
    return out, functools.reduce(jnp.add, parts)


def _derivative_transpose(cotangent, *arguments, which: int, rows: Rows, how: _How):
    gradients: list[jax.Array | None] = [None, None, None]
    if not isinstance(cotangent, ad.Zero):
        (k,) = (k for k, argument in enumerate(arguments) if ad.is_undefined_primal(argument))
        arrays = dict(zip(others(which), arguments, strict=True)) | {which: cotangent}
        asked = others(which)[k]
        gradients[k] = _by(asked, rows, how, *(arrays[kind] for kind in others(asked)))
    return gradients


def _tangent_of(*arguments: jax.Array, rows: Rows, how: _How) -> jax.Array:
    """Of messages, along tangents of all three arrays: the arrays, then the tangents."""
    arrays, tangents = arguments[:3], arguments[3:]
    parts = [_by(MESSAGES, rows, how, *arrays[:k], tangents[k], *arrays[k + 1 :]) for k in range(3)]
    return functools.reduce(jnp.add, parts)


def _tangent_transpose(cotangent, *arguments, rows: Rows, how: _How):
    gradients: list[jax.Array | None] = [None] * 6
    if not isinstance(cotangent, ad.Zero):
        found = _gradients.bind(*arguments[:3], cotangent, rows=rows, how=how)
        gradients[3:] = [x if ad.is_undefined_primal(argument) else None for x, argument in zip(found, arguments[3:], strict=True)]
    return gradients


def _gradients_of(*arguments: jax.Array, rows: Rows, how: _How) -> list[jax.Array]:
    weights, harmonics, features, cotangent = arguments
    return [
        _by(WEIGHTS, rows, how, harmonics, features, cotangent),
        _by(HARMONICS, rows, how, weights, features, cotangent),
        _by(FEATURES, rows, how, weights, harmonics, cotangent),
    ]


def _gradients_transpose(cotangents, *arguments, rows: Rows, how: _How):
    # Linear in the messages' cotangent alone, for nothing else is ever undefined: a function of more is differentiated by `_derivative`.
    arrays = arguments[:3]
    parts = [
        _by(MESSAGES, rows, how, *arrays[:k], cotangent, *arrays[k + 1 :])
        for k, cotangent in enumerate(cotangents)
        if not isinstance(cotangent, ad.Zero)
    ]
    return [None, None, None, functools.reduce(jnp.add, parts) if parts else None]


def _primitive(
    name: str,
    results: Callable[..., Any],
    definition: Callable[..., Any] | None,
    plain: Callable[..., Any],
    kernel: Callable[..., Any],
    multiple: bool = False,
) -> Primitive:
    """A primitive of arrays that all have the atoms as leading axis.

    Args:
      name: of the primitive.
      results: `(*shapes, **parameters) -> shape`, or several shapes.
      definition: what it is, in terms of other primitives, and is differentiated as.
      plain: what it is in plain XLA.
      kernel: what it is on a CUDA device.
      multiple: whether it has several results.
    """
    primitive = Primitive(name)
    primitive.multiple_results = multiple

    def abstract(*arguments, **params):
        shapes = results(*(x.shape for x in arguments), **params)
        make = functools.partial(jax.core.ShapedArray, dtype=arguments[0].dtype)
        return [make(shape) for shape in shapes] if multiple else make(shapes)

    def jvp(primals, tangents, **params):
        def along(*moved):
            arguments = list(primals)
            for k, x in zip(moving, moved, strict=True):
                arguments[k] = x
            return definition(*arguments, **params)

        moving = [k for k, x in enumerate(tangents) if not isinstance(x, ad.Zero)]
        out = primitive.bind(*primals, **params)
        return out, jax.jvp(along, [primals[k] for k in moving], [tangents[k] for k in moving])[1]

    def batch(arguments, dims, **params):
        size = next(x.shape[dim] for x, dim in zip(arguments, dims, strict=True) if dim is not None)

        def merge(x: jax.Array, dim: int | None) -> jax.Array:
            x = jnp.broadcast_to(x, (size, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)
            return x.reshape(size * x.shape[1], *x.shape[2:])

        out = primitive.bind(*(merge(x, dim) for x, dim in zip(arguments, dims, strict=True)), **params)
        found = jax.tree.map(lambda x: x.reshape(size, x.shape[0] // max(size, 1), *x.shape[1:]), out)
        return found, [0] * len(found) if multiple else 0

    def in_xla(*arguments, how, **params):
        # This is traced when a program is lowered, where the precision that its caller asked for is no longer in force.
        with jax.default_matmul_precision(how.precision):
            return plain(*arguments, **params)

    def on_cuda(*arguments, how, **params):
        return kernel(*arguments, how=how, **params) if how.kernels else in_xla(*arguments, how=how, **params)

    primitive.def_impl(lambda *arguments, **params: _compiled(primitive, **params)(*arguments))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(in_xla, multiple_results=multiple))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cuda, multiple_results=multiple), platform="cuda")
    return primitive


@functools.cache
def _compiled(primitive: Primitive, **params: Any) -> Callable[..., Any]:
    """What evaluates a primitive outside of any program, compiled once."""
    return jax.jit(functools.partial(primitive.bind, **params))


def _shape_of_derivative(*shapes: tuple[int, ...], which: int, rows: Rows, how: _How) -> tuple[int, ...]:
    return shape_of(which, dict(zip(others(which), shapes, strict=True)), rows)


_derivative = _primitive(
    "sum_neighbors",
    _shape_of_derivative,
    None,
    lambda *x, which, rows: neighbor_plain.derivative(which, rows, *x),
    lambda *x, which, rows, how: call_kernel((which,), rows, *x)[0],
)
ad.primitive_jvps[_derivative] = _derivative_jvp
ad.primitive_transposes[_derivative] = _derivative_transpose
_tangent = _primitive(
    "sum_neighbors_tangent",
    lambda *shapes, rows, how: _shape_of_derivative(*shapes[:3], which=MESSAGES, rows=rows, how=how),
    _tangent_of,
    lambda *x, rows: neighbor_plain.tangent(rows, *x),
    _tangent_of,
)
ad.primitive_transposes[_tangent] = _tangent_transpose
_gradients = _primitive(
    "sum_neighbors_gradients",
    lambda *shapes, rows, how: shapes[:3],
    _gradients_of,
    lambda *x, rows: neighbor_plain.gradients(rows, *x),
    lambda *x, rows, how: call_kernel(EDGES, rows, *x),
    multiple=True,
)
ad.primitive_transposes[_gradients] = _gradients_transpose
