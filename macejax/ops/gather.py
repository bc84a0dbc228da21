"""Neighbour gather whose transpose is a gather.

In row form the list of edges is symmetric: slot e = (i, m) of the edge j -> i knows the slot `reverse[e]` of i -> j. The transpose of
`h[senders]` is therefore "permute the cotangents by `reverse`, sum each row", whose transpose is the gather again; the permutation itself
is an involution, its own transpose. So is a selection of rows by an index known beforehand, with the inverse index. Linear primitives,
closed under differentiation of any order and mode, and no scatter anywhere.

Rows may come in classes of unlike width, one array [N_c, M_c] for each: `reverse` then counts the slots of all classes, one after another.

They are primitives because `jax.custom_vjp` forbids forward mode and `jax.custom_derivatives.linear_call` has no batching rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from macejax.ops.slots import add_slots

Shapes = tuple[tuple[int, int], ...]  # of each class of rows, how many there are and their slots


def gather_neighbors(h: jax.Array, senders: jax.Array, reverse: jax.Array) -> jax.Array:
    """Features of the sender of every slot: h [N, ...], senders [N, M], reverse [N*M] -> [N, M, ...]."""
    return gather_classes(h, (senders,), reverse)[0]


def gather_classes(h: jax.Array, senders: Sequence[jax.Array], reverse: jax.Array) -> tuple[jax.Array, ...]:
    """The same for rows in classes: h [N, ...], each senders [N_c, M_c], reverse [sum of N_c M_c] -> of each class [N_c, M_c, ...].

    The classes, one after the other, are the rows of all N nodes in their order.
    """
    shapes = tuple(x.shape for x in senders)
    flat = _gather.bind(h, jnp.concatenate([x.reshape(-1) for x in senders]), reverse, shapes=shapes)
    ends = np.cumsum([rows * width for rows, width in shapes])[:-1].tolist()
    return tuple(x.reshape(shape + h.shape[1:]) for x, shape in zip(jnp.split(flat, ends), shapes, strict=True))


def permute(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """x[order] for a permutation [N] and its inverse: x [N, ...] -> [N, ...]."""
    return _permute.bind(x, order, inverse)


def reverse_edges(g: jax.Array, reverse: jax.Array) -> jax.Array:
    """The value that every slot's reversed edge has: g [N, M, ...], reverse [N*M] -> [N, M, ...]. Padding slots keep their own."""
    return _reverse.bind(g, reverse)


def select_rows(x: jax.Array, index: np.ndarray) -> jax.Array:
    """x[index] for an index that is known beforehand: x [V, ...], index [count] -> [count, ...]. Its transpose sums what each row was
    used for.
    """
    uses = np.bincount(index, minlength=x.shape[0])
    inverse = np.full((x.shape[0], max(uses.max(), 1)), len(index))  # beyond the last: a row of zeros
    order = np.argsort(index, kind="stable")
    rank = np.arange(len(index)) - np.repeat(np.cumsum(uses) - uses, uses)
    inverse[index[order], rank] = order
    return _select.bind(x, jnp.asarray(index, jnp.int32), jnp.asarray(inverse, jnp.int32))


def _gather_impl(h: jax.Array, senders: jax.Array, reverse: jax.Array, *, shapes: Shapes) -> jax.Array:
    del reverse, shapes  # only the transpose needs them
    return h.at[senders].get(mode="promise_in_bounds")


def _reverse_impl(g: jax.Array, reverse: jax.Array) -> jax.Array:
    flat = g.reshape((g.shape[0] * g.shape[1],) + g.shape[2:])
    return flat.at[reverse].get(mode="promise_in_bounds").reshape(g.shape)


def _sum_reversed_impl(
    add: Callable[[jax.Array], jax.Array], g: jax.Array, senders: jax.Array, reverse: jax.Array, *, shapes: Shapes
) -> jax.Array:
    """`add`: [N, M, ...] -> [N, ...]."""
    del senders
    reversed_edges = g.at[reverse].get(mode="promise_in_bounds")
    ends = np.cumsum([rows * width for rows, width in shapes])[:-1].tolist()
    parts = zip(jnp.split(reversed_edges, ends), shapes, strict=True)
    return jnp.concatenate([add(x.reshape(shape + g.shape[1:])) for x, shape in parts])


def _select_impl(x: jax.Array, index: jax.Array, inverse: jax.Array) -> jax.Array:
    del inverse
    return x.at[index].get(mode="promise_in_bounds")


def _permute_impl(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    del inverse
    return x.at[order].get(mode="promise_in_bounds")


def _collect_impl(g: jax.Array, index: jax.Array, inverse: jax.Array) -> jax.Array:
    del index
    padded = jnp.concatenate([g, jnp.zeros((1,) + g.shape[1:], g.dtype)])
    return jnp.sum(padded.at[inverse].get(mode="promise_in_bounds"), axis=1)


def _linear_primitive(name: str, impl: Callable[..., jax.Array], static: tuple[str, ...] = ()) -> Primitive:
    """Primitive that is linear in its first operand; the others are integer indices. Its transpose is set by `_set_transpose`."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(impl, static_argnames=static))

    def abstract(x, *indices, **params):
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, *indices)]
        return jax.core.ShapedArray(jax.eval_shape(functools.partial(impl, **params), *shapes).shape, x.dtype)

    def jvp(primals, tangents, **params):
        out = primitive.bind(*primals, **params)
        tangent = tangents[0]
        if isinstance(tangent, ad.Zero):
            return out, ad.Zero.from_primal_value(out)
        return out, primitive.bind(tangent, *primals[1:], **params)

    def batch(args, dims, **params):
        if all(d is None for d in dims[1:]):
            # Last, where it joins the channels: the leading axes stay nodes and slots.
            out = primitive.bind(jnp.moveaxis(args[0], dims[0], -1), *args[1:], **params)
            return out, out.ndim - 1
        # Indices that differ along the batch: plain indexing, whose transpose is a scatter.
        return jax.vmap(functools.partial(impl, **params), in_axes=tuple(dims))(*args), 0

    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(impl, multiple_results=False))
    return primitive


def _set_transpose(primitive: Primitive, adjoint: Primitive, reorder: tuple[int, ...] = (0, 1)) -> None:
    """`adjoint` is told the indices in the order `reorder`."""

    def transpose(cotangent, _, *indices, **params):
        gradient = None if isinstance(cotangent, ad.Zero) else adjoint.bind(cotangent, *(indices[k] for k in reorder), **params)
        return (gradient,) + (None,) * len(indices)

    ad.primitive_transposes[primitive] = transpose


_gather = _linear_primitive("gather_neighbors", _gather_impl, ("shapes",))
_sum_reversed = _linear_primitive("sum_reversed_edges", functools.partial(_sum_reversed_impl, add_slots), ("shapes",))
for _platform in ("cuda", "rocm", "tpu"):  # where a sum that is fused with its gather is the faster, and no bits are promised
    _plain_sum = functools.partial(_sum_reversed_impl, functools.partial(jnp.sum, axis=1))
    mlir.register_lowering(_sum_reversed, mlir.lower_fun(_plain_sum, multiple_results=False), platform=_platform)
_reverse = _linear_primitive("reverse_edges", _reverse_impl)
_select = _linear_primitive("select_rows", _select_impl)
_collect = _linear_primitive("collect_rows", _collect_impl)
_permute = _linear_primitive("permute", _permute_impl)
_set_transpose(_select, _collect)
_set_transpose(_collect, _select)
_set_transpose(_gather, _sum_reversed)
_set_transpose(_sum_reversed, _gather)
_set_transpose(_reverse, _reverse, (0,))
_set_transpose(_permute, _permute, (1, 0))
