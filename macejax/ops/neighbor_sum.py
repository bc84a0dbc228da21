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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from macejax.ops.neighbor_kernels import EDGES, FEATURES, HARMONICS, MESSAGES, WEIGHTS, Rows, call_kernel, counts_of

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


def _others(which: int) -> list[int]:
    return [k for k in range(4) if k != which]


def _plain(*arguments: jax.Array, which: int, rows: Rows) -> jax.Array:
    """What the kernel computes, by one dense coupling tensor."""
    subscripts = {WEIGHTS: "njpk", HARMONICS: "njy", FEATURES: "njdk", MESSAGES: "nrk"}
    dense = np.zeros((len(rows), *counts_of(rows)))
    for r, terms in enumerate(rows):
        for p, y, d, c in terms:
            dense[r, p, y, d] += c
    operands = ",".join(subscripts[k] for k in _others(which))
    return jnp.einsum(f"rpyd,{operands}->{subscripts[which]}", jnp.asarray(dense, arguments[0].dtype), *arguments)


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


_derivative = _primitive("sum_neighbors", _plain, lambda *x, which, rows: call_kernel((which,), rows, *x)[0], False)
ad.primitive_jvps[_derivative] = _derivative_jvp
ad.primitive_transposes[_derivative] = _derivative_transpose
_tangent = _primitive("sum_neighbors_tangent", _tangent_plain, None, False)
ad.primitive_transposes[_tangent] = _tangent_transpose
_gradients = _primitive("sum_neighbors_gradients", _gradients_plain, lambda *x, rows: call_kernel(EDGES, rows, *x), True)
ad.primitive_transposes[_gradients] = _gradients_transpose
