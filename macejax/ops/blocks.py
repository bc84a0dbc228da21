"""Evaluate a function of atoms block by block, so that its temporaries stay in cache and memory does not grow with the system."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Temporaries of one block on a CPU. Beyond the caches XLA:CPU is bound by page faults: silicon, 64 atoms, 8 per block 65 ms, all in one
# 900 ms.
_BLOCK_BYTES = 4 * 2**20


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
