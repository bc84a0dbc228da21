"""Evaluate a function of atoms block by block, so that its temporaries stay in cache and memory does not grow with the system."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from macejax.ops.gather import gather_classes

# Temporaries of one block on a CPU. Beyond the caches XLA:CPU is bound by page faults: silicon, 64 atoms, 8 per block 65 ms, all in one
# 900 ms. Too few atoms are as bad, for matrix products have few rows then: water, L2, one per block 730 ms, two 520 ms. So little that one
# block may hold it all is quicker without a loop: aspirin 9.5 ms, in six blocks 11.0 ms.
_BLOCK_BYTES = 8 * 2**20
_WHOLE_BYTES = 16 * 2**20
_DEVICE_SHARE = 1 / 8  # of an accelerator's memory, for the temporaries of one block
Groups = tuple[tuple[jax.Array, ...], ...]
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
        if num_atoms * bytes_per_atom <= _WHOLE_BYTES:
            return num_atoms or 1
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
    return map_groups(lambda group: (function(*group),), (arrays,), -(-arrays[0].shape[0] // size))[0]


def map_groups(function: Callable[..., Groups], groups: Groups, blocks: int) -> Groups:
    """The same for groups of arrays, each group with a leading axis of its own: every block gets its share of each.

    Args:
      function: `(*groups) -> groups`, as many; what it makes of a group has the group's leading axis.
      groups: of arrays.
      blocks: how many.
    """
    counts = [group[0].shape[0] for group in groups]
    if blocks <= 1:
        return function(*groups)

    def split(x: jax.Array) -> jax.Array:
        size = -(-x.shape[0] // blocks)
        padded = jnp.pad(x, [(0, blocks * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape((blocks, size) + x.shape[1:])

    outputs = jax.lax.map(jax.checkpoint(lambda block: function(*block)), tuple(tuple(split(x) for x in group) for group in groups))
    return tuple(tuple(x.reshape((-1,) + x.shape[2:])[:count] for x in group) for group, count in zip(outputs, counts, strict=True))


def num_blocks(size: int, shapes: Sequence[tuple[int, int]]) -> int:
    """How many blocks of about `size` atoms to make of classes of rows (N_c, M_c).

    Of several classes a block has a few rows of each, for which more atoms to a block make up: of the numbers from half to all of the
    blocks that one class would have, that which leaves fewest slots empty.
    """
    most = max(-(-sum(rows for rows, _ in shapes) // size), 1)
    if len(shapes) == 1:
        return most
    return min(range(-(-most // 2), most + 1), key=lambda blocks: sum(-(-rows // blocks) * blocks * width for rows, width in shapes))


class Gathered(NamedTuple):
    """Features of neighbours that are gathered when they are needed: what `gather_classes` would make of these."""

    values: jax.Array  # [N, ...]
    senders: tuple[jax.Array, ...]  # of every class of rows, [N_c, M_c]
    reverse: jax.Array  # [sum of N_c M_c]


EnergyFunction = Callable[[Any, tuple[jax.Array, ...], tuple[Any, ...]], jax.Array]


def map_energies(function: EnergyFunction, params: Any, neighbors: Gathered, arrays: tuple[Any, ...], blocks: int) -> jax.Array:
    """`function(params, neighbors, arrays)` [N] in so many blocks of atoms, for energies whose gradient will be asked for.

    An atom's energy is one number, and its gradient is known, up to a factor, as soon as the energy is: it is taken in the same block, so
    that nothing is computed twice, as it is where the backward pass comes later (`map_blocks`).

    Args:
      function: `(params, neighbors of every class [B_c, M_c, ...], arrays of every class) -> [sum of B_c]`, energies of atoms that are
        independent of each other.
      params: tree of arrays, the same for all blocks.
      neighbors: the features of neighbours; of a block, they are gathered in the block.
      arrays: for every class of rows a tree of arrays with leading axis N_c.
      blocks: how many; each gets its share of every class.
    """
    return _energies(function, blocks, params, neighbors, arrays)


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


def _plain_energies(function: EnergyFunction, blocks: int, params: Any, neighbors: Gathered, arrays: tuple[Any, ...]) -> jax.Array:
    leaves, tree = jax.tree.flatten(arrays)
    classes = _classes(arrays)

    def block(*groups: tuple[jax.Array, ...]) -> Groups:
        gathered = tuple(group[0] for group in groups)
        energies = function(params, gathered, jax.tree.unflatten(tree, [x for group in groups for x in group[1:]]))
        return tuple((x,) for x in _split_like(energies, gathered))

    groups = _grouped([(x,) for x in gather_classes(*neighbors)], leaves, classes)
    return jnp.concatenate([group[0] for group in map_groups(block, groups, blocks)])


_energies = jax.custom_jvp(_plain_energies, nondiff_argnums=(0, 1))


def _energies_jvp(function, blocks, primals, tangents):
    if _forward_mode.get() or _moving(tangents[0]):
        return _jvp_of(functools.partial(_plain_energies, function, blocks), primals, tangents)
    _, neighbors, arrays = primals
    sent, moving = _moving(tangents[1]), _moving(tangents[2])
    energies, by_neighbors, by_arrays = _with_gradients(function, blocks, tuple(moving), *primals)
    slopes = [jnp.zeros_like(x) for x in energies]
    for direction in sent.values():
        for c, along in enumerate(gather_classes(direction, *neighbors[1:])):
            slopes[c] += _inner(by_neighbors[c], along)
    classes = _classes(arrays)
    for (k, direction), gradient in zip(moving.items(), by_arrays, strict=True):
        slopes[classes[k]] += _inner(gradient, direction)
    return jnp.concatenate(energies), jnp.concatenate(slopes)


_energies.defjvp(_energies_jvp, symbolic_zeros=True)


def _energies_and_gradients(
    early: bool, function: EnergyFunction, blocks: int, moving: tuple[int, ...], params: Any, neighbors: Gathered, arrays: tuple[Any, ...]
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """Of every class energies [N_c] and gradients by gathered features [N_c, M_c, ...]; gradients by the leaves `moving` of `arrays`.
    Features are gathered all together, `early`, or each block's in the block.
    """
    leaves, tree = jax.tree.flatten(arrays)
    classes = _classes(arrays)

    def block(*groups: tuple[jax.Array, ...]) -> Groups:
        block_leaves = [x for group in groups for x in group[1:]]

        def energies(gathered: tuple[jax.Array, ...], *moved: jax.Array) -> jax.Array:
            return function(params, gathered, jax.tree.unflatten(tree, _replace(block_leaves, moving, moved)))

        firsts = [group[0] for group in groups]
        gathered = tuple(firsts) if early else tuple(neighbors.values.at[x].get(mode="promise_in_bounds") for x in firsts)
        found, pullback = jax.vjp(energies, gathered, *(block_leaves[k] for k in moving))
        by_neighbors, *by_moved = pullback(jnp.ones_like(found))
        own = list(zip(_split_like(found, gathered), by_neighbors, strict=True))
        return _grouped(own, by_moved, [classes[k] for k in moving])

    firsts = gather_classes(*neighbors) if early else neighbors.senders
    found = map_groups(block, _grouped([(x,) for x in firsts], leaves, classes), blocks)
    rest = [iter(group[2:]) for group in found]
    return [group[0] for group in found], [group[1] for group in found], [next(rest[classes[k]]) for k in moving]


_with_gradients = jax.custom_jvp(functools.partial(_energies_and_gradients, False), nondiff_argnums=(0, 1, 2))


def _with_gradients_jvp(function, blocks, moving, primals, tangents):
    # The transpose of a gather inside a block would be a scatter: what is differentiated again gathers before.
    return _jvp_of(functools.partial(_energies_and_gradients, True, function, blocks, moving), primals, tangents)


_with_gradients.defjvp(_with_gradients_jvp, symbolic_zeros=True)


def _classes(arrays: tuple[Any, ...]) -> list[int]:
    """The class of rows that every leaf belongs to."""
    return [c for c, tree in enumerate(arrays) for _ in jax.tree.leaves(tree)]


def _grouped(own: Sequence[tuple[jax.Array, ...]], leaves: Sequence[jax.Array], classes: Sequence[int]) -> Groups:
    """For every class of rows its own arrays, then its leaves."""
    return tuple((*first, *(x for x, k in zip(leaves, classes, strict=True) if k == c)) for c, first in enumerate(own))


def _split_like(x: jax.Array, likes: Sequence[jax.Array]) -> list[jax.Array]:
    """x [sum of N_c] in parts of the leading axes of `likes`."""
    return jnp.split(x, np.cumsum([like.shape[0] for like in likes])[:-1].tolist())


def _inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """Inner products of rows, [N]."""
    return jnp.sum((x * y).reshape(x.shape[0], -1), axis=1)


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
