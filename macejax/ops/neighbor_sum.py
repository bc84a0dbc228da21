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
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from macejax.ops import neighbor_plain
from macejax.ops.neighbor_kernels import call_kernel
from macejax.ops.neighbor_terms import EDGES, FEATURES, HARMONICS, MESSAGES, WEIGHTS, Rows, counts_of, others

_use = True


def use_kernels(use: bool) -> None:
    """Whether programs compiled from now on use the kernels where there is a device for them."""
    global _use
    _use = use


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
    return _by(MESSAGES, rows, *used)


def _by(which: int, rows: Rows, *others: jax.Array) -> jax.Array:
    """The derivative by array number `which`, from the other three in ascending order."""
    return _derivative.bind(*others, which=which, rows=rows)


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
        arrays = dict(zip(others(which), arguments, strict=True)) | {which: cotangent}
        asked = others(which)[k]
        gradients[k] = _by(asked, rows, *(arrays[kind] for kind in others(asked)))
    return gradients


def _tangent_of(*arguments: jax.Array, rows: Rows) -> jax.Array:
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


def _gradients_of(weights: jax.Array, harmonics: jax.Array, features: jax.Array, cotangent: jax.Array, *, rows: Rows) -> list[jax.Array]:
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


def _primitive(
    name: str,
    definition: Callable[..., Any],
    plain: Callable[..., Any],
    kernel: Callable[..., Any] | None,
    multiple: bool,
) -> Primitive:
    """A primitive of arrays that all have the atoms as leading axis; without a rule for derivatives it is differentiated as its definition.

    Args:
      name: of the primitive.
      definition: what it is, in terms of other primitives, or for the first of all, in plain XLA.
      plain: the same in plain XLA.
      kernel: the same on a CUDA device, where it has a kernel of its own.
      multiple: whether it has several results.
    """
    primitive = Primitive(name)
    primitive.multiple_results = multiple

    def abstract(*arguments, **params):
        shapes = jax.eval_shape(functools.partial(definition, **params), *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments))
        return jax.tree.map(lambda x: jax.core.ShapedArray(x.shape, x.dtype), shapes)

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
            return x.reshape(-1, *x.shape[2:])

        out = primitive.bind(*(merge(x, dim) for x, dim in zip(arguments, dims, strict=True)), **params)
        found = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out)
        return found, [0] * len(found) if multiple else 0

    def on_cuda(*arguments, **params):
        return kernel(*arguments, **params) if _use else plain(*arguments, **params)

    primitive.def_impl(lambda *arguments, **params: _compiled(primitive, _use, **params)(*arguments))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=multiple))
    if kernel is not None:
        mlir.register_lowering(primitive, mlir.lower_fun(on_cuda, multiple_results=multiple), platform="cuda")
    return primitive


@functools.cache
def _compiled(primitive: Primitive, use: bool, **params: Any) -> Callable[..., Any]:
    """What evaluates a primitive outside of any program, compiled once."""
    del use  # which code that is
    return jax.jit(functools.partial(primitive.bind, **params))


def _plain(*arguments: jax.Array, which: int, rows: Rows) -> jax.Array:
    return neighbor_plain.derivative(which, rows, *arguments)


_derivative = _primitive("sum_neighbors", _plain, _plain, lambda *x, which, rows: call_kernel((which,), rows, *x)[0], False)
ad.primitive_jvps[_derivative] = _derivative_jvp
ad.primitive_transposes[_derivative] = _derivative_transpose
_tangent = _primitive("sum_neighbors_tangent", _tangent_of, lambda *x, rows: neighbor_plain.tangent(rows, *x), _tangent_of, False)
ad.primitive_transposes[_tangent] = _tangent_transpose
_gradients = _primitive(
    "sum_neighbors_gradients",
    _gradients_of,
    lambda *x, rows: neighbor_plain.gradients(rows, *x),
    lambda *x, rows: call_kernel(EDGES, rows, *x),
    True,
)
ad.primitive_transposes[_gradients] = _gradients_transpose
