"""Evaluate a function of atoms block by block, so that its temporaries stay in cache and memory does not grow with the system."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from macejax.ops.gather import gather_neighbors

# Temporaries of one block on a CPU. Beyond the caches XLA:CPU is bound by page faults: silicon, 64 atoms, 8 per block 65 ms, all in one
# 900 ms.
_BLOCK_BYTES = 4 * 2**20
_DEVICE_SHARE = 1 / 8  # of an accelerator's memory, for the temporaries of one block
_forward_mode = contextvars.ContextVar("forward_mode", default=False)


def block_size(bytes_per_atom: int, num_atoms: int, factor: int = 1) -> int:
    """Atoms per block: on CPU as many as caches hold the temporaries of, on accelerators as many as a share of the memory holds.

    All blocks are as large as one another: the last is not left half empty.

    Args:
      bytes_per_atom: of all temporaries that a block has at a time.
      num_atoms: of all blocks.
      factor: how much larger than usual a block may be.
    """
    if jax.default_backend() == "cpu":
        size = 1
        while size < num_atoms and 2 * size * bytes_per_atom <= factor * _BLOCK_BYTES:
            size *= 2
        blocks = -(-num_atoms // size)
    else:
        blocks = -(-num_atoms * bytes_per_atom // _device_bytes())
    return -(-num_atoms // max(blocks, 1)) or 1


@functools.cache
def _device_bytes() -> int:
    """Bytes that the temporaries of a block may take on this accelerator."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 16 * 2**30)
    return int(_DEVICE_SHARE * limit)


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


class Gathered(NamedTuple):
    """Features of neighbours that are gathered when they are needed: what `gather_neighbors` would make of these."""

    values: jax.Array  # [N, ...]
    senders: jax.Array  # [N, M]
    reverse: jax.Array  # [N * M]


EnergyFunction = Callable[[Any, jax.Array, Any], jax.Array]


def map_energies(function: EnergyFunction, params: Any, neighbors: Gathered, arrays: Any, size: int) -> jax.Array:
    """`function(params, neighbors [B, M, ...], arrays)` [B] in blocks of `size` atoms, for energies whose gradient will be asked for: [N].

    An atom's energy is one number, and its gradient is known, up to a factor, as soon as the energy is: it is taken in the same block, so
    that nothing is computed twice, as it is where the backward pass comes later (`map_blocks`).

    Args:
      function: energies of atoms that are independent of each other.
      params: tree of arrays, the same for all blocks.
      neighbors: the features of neighbours; of a block, they are gathered in the block.
      arrays: tree of arrays with leading axis N.
      size: atoms per block.
    """
    return _energies(function, size, params, neighbors, arrays)


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


def _plain_energies(function: EnergyFunction, size: int, params: Any, neighbors: Gathered, arrays: Any) -> jax.Array:
    leaves, tree = jax.tree.flatten((gather_neighbors(*neighbors), arrays))
    return map_blocks(lambda *block: (function(params, *jax.tree.unflatten(tree, block)),), tuple(leaves), size)[0]


_energies = jax.custom_jvp(_plain_energies, nondiff_argnums=(0, 1))


def _energies_jvp(function, size, primals, tangents):
    if _forward_mode.get() or _moving(tangents[0]):
        return _jvp_of(functools.partial(_plain_energies, function, size), primals, tangents)
    _, neighbors, arrays = primals
    sent, moving = _moving(tangents[1]), _moving(tangents[2])
    energy, *gradients = _with_gradients(function, size, tuple(moving), *primals)
    directions = [gather_neighbors(direction, *neighbors[1:]) for direction in sent.values()]
    pairs = zip(gradients if sent else gradients[1:], [*directions, *moving.values()], strict=True)
    slopes = [jnp.sum((gradient * direction).reshape(len(energy), -1), axis=1) for gradient, direction in pairs]
    return energy, functools.reduce(jnp.add, slopes, jnp.zeros_like(energy))


_energies.defjvp(_energies_jvp, symbolic_zeros=True)


def _energies_and_gradients(
    early: bool, function: EnergyFunction, size: int, moving: tuple[int, ...], params: Any, neighbors: Gathered, arrays: Any
) -> tuple[jax.Array, ...]:
    """Energies [N], gradients by gathered features [N, M, ...] and by the leaves `moving` of `arrays`. Features are gathered all together,
    `early`, or each block's in the block.
    """
    leaves, tree = jax.tree.flatten(arrays)

    def block(first: jax.Array, *block: jax.Array) -> tuple[jax.Array, ...]:
        def energies(gathered: jax.Array, *moved: jax.Array) -> jax.Array:
            return function(params, gathered, jax.tree.unflatten(tree, _replace(block, moving, moved)))

        gathered = first if early else neighbors.values.at[first].get(mode="promise_in_bounds")
        found, pullback = jax.vjp(energies, gathered, *(block[k] for k in moving))
        return (found, *pullback(jnp.ones_like(found)))

    return map_blocks(block, (gather_neighbors(*neighbors) if early else neighbors.senders, *leaves), size)


_with_gradients = jax.custom_jvp(functools.partial(_energies_and_gradients, False), nondiff_argnums=(0, 1, 2))


def _with_gradients_jvp(function, size, moving, primals, tangents):
    # The transpose of a gather inside a block would be a scatter: what is differentiated again gathers before.
    return _jvp_of(functools.partial(_energies_and_gradients, True, function, size, moving), primals, tangents)


_with_gradients.defjvp(_with_gradients_jvp, symbolic_zeros=True)


def _jvp_of(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """jax.jvp along the tangents that are not symbolic zeros."""
    (leaves, tree), moving = jax.tree.flatten(primals), _moving(tangents)

    def along(*moved: jax.Array) -> Any:
        return function(*jax.tree.unflatten(tree, _replace(leaves, moving, moved)))

    return jax.jvp(along, [leaves[k] for k in moving], list(moving.values()))


def _moving(tangents: Any) -> dict[int, jax.Array]:
    """Tangents that are not zero, by the place of their leaf."""
    leaves = jax.tree.leaves(tangents, is_leaf=lambda x: isinstance(x, SymbolicZero))
    return {k: x for k, x in enumerate(leaves) if not isinstance(x, SymbolicZero)}


def _replace(leaves: Sequence[jax.Array], places: Iterable[int], new: Iterable[jax.Array]) -> list[jax.Array]:
    replaced = list(leaves)
    for k, x in zip(places, new, strict=True):
        replaced[k] = x
    return replaced
