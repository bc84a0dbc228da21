"""Evaluate a function of atoms block by block, so that its temporaries stay in cache and memory does not grow with the system."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# Temporaries of one block on a CPU. Beyond the caches XLA:CPU is bound by page faults: silicon, 64 atoms, 8 per block 65 ms, all in one
# 900 ms.
_BLOCK_BYTES = 4 * 2**20
_forward_mode = contextvars.ContextVar("forward_mode", default=False)


def block_size(bytes_per_atom: int, num_atoms: int, factor: int = 1) -> int:
    """Atoms per block: a power of two on CPU, everything at once on accelerators.

    Args:
      bytes_per_atom: of all temporaries that a block has at a time.
      num_atoms: of all blocks.
      factor: how much larger than usual a block may be.
    """
    if jax.default_backend() != "cpu":
        return num_atoms
    size = 1
    while size < num_atoms and 2 * size * bytes_per_atom <= factor * _BLOCK_BYTES:
        size *= 2
    return size


def map_blocks(function: Callable[..., tuple[jax.Array, ...]], arrays: tuple[jax.Array, ...], size: int) -> tuple[jax.Array, ...]:
    """`function(*arrays)` in blocks of `size` along the leading axis, recomputed in the backward pass.

    The function must treat rows independently; the last block is filled with zeros, whose results are dropped.
    """
    num = arrays[0].shape[0]
    if size >= num:
        return function(*arrays)
    blocks = -(-num // size)

    def split(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, [(0, blocks * size - num)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape((blocks, size) + x.shape[1:])

    outputs = jax.lax.map(jax.checkpoint(lambda block: function(*block)), tuple(split(x) for x in arrays))
    return tuple(x.reshape((blocks * size,) + x.shape[2:])[:num] for x in outputs)


def map_energies(function: Callable[..., jax.Array], params: Any, arrays: Any, size: int) -> jax.Array:
    """`function(params, arrays)` [N] in blocks of `size` along the leading axis of a tree of arrays, for energies of which the gradient
    will be asked.

    One energy per row: its gradient is known up to a factor as soon as the energy is, and is taken in the same block. Nothing is computed
    twice, as it is where the backward pass comes later (`map_blocks`).
    """
    return _energies(function, size, params, arrays)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """While tracing derivatives along a direction (jax.jvp) which will themselves be differentiated: `map_energies` then takes them
    directly, and not as the product of gradient and direction, which is the dearer to differentiate.
    """
    token = _forward_mode.set(True)
    try:
        yield
    finally:
        _forward_mode.reset(token)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _energies(function: Callable[..., jax.Array], size: int, params: Any, arrays: Any) -> jax.Array:
    leaves, tree = jax.tree.flatten(arrays)
    return map_blocks(lambda *block: (function(params, jax.tree.unflatten(tree, block)),), tuple(leaves), size)[0]


def _energies_jvp(function, size, primals, tangents):
    params, arrays = primals
    if _forward_mode.get() or not all(isinstance(x, SymbolicZero) for x in jax.tree.leaves(tangents[0], is_leaf=_is_zero)):
        made = jax.tree.map(_instantiate, tangents, is_leaf=_is_zero)
        return jax.jvp(functools.partial(_energies.fun, function, size), primals, made)
    leaves, tree = jax.tree.flatten(arrays)
    directions = jax.tree.leaves(tangents[1], is_leaf=_is_zero)
    moving = [k for k, direction in enumerate(directions) if not _is_zero(direction)]

    def block(*block: jax.Array) -> tuple[jax.Array, ...]:
        def energies(*moved: jax.Array) -> jax.Array:
            new = list(block)
            for k, x in zip(moving, moved, strict=True):
                new[k] = x
            return function(params, jax.tree.unflatten(tree, new))

        found, pullback = jax.vjp(energies, *(block[k] for k in moving))
        return (found, *pullback(jnp.ones_like(found)))

    found, *gradients = map_blocks(block, tuple(leaves), size)
    slopes = [jnp.sum((g * directions[k]).reshape(len(g), -1), axis=1) for k, g in zip(moving, gradients, strict=True)]
    return found, functools.reduce(jnp.add, slopes, jnp.zeros_like(found))


_energies.defjvp(_energies_jvp, symbolic_zeros=True)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _instantiate(x: Any) -> Any:
    return jax.custom_derivatives.zero_from_primal(x) if _is_zero(x) else x
