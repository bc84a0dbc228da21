"""Messages: radial weights x spherical harmonics x neighbour features, summed over neighbours.

For receiver i, path p = (l2 of the neighbour's feature, l1 of the harmonic, l3) and channel k (MACE, Batatia et al. 2022, eq. 8):

    A[i, p, m3, k] = sum_{m1, m2} C_p[m3, m1, m2] sum_j R_p(r_ij)[k] Y_{l1 m1}(r_ij) h[j, m2, k]

| symbol | variable |
|---|---|
| R | `radial_network(edges.radial)`, [N, M, P, K] |
| Y | `edges.harmonics`, [N, M, (l_max + 1)^2] |
| h | `neighbors`, [N, M, D, K] |
| C | `path.coefficients` |

`neighbor_sum` has the sum over neighbours with its coupling; features that depend on the neighbour's species alone are summed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.ops.blocks import block_size, map_blocks
from macejax.ops.neighbor_sum import sum_neighbors
from macejax.ops.neighbor_terms import Terms
from macejax.ops.slots import sum_slots

_ZERO = 1e-12  # coefficients below are rounding


class Path(NamedTuple):
    """One way to couple a node feature with a spherical harmonic."""

    node: str  # irrep of the neighbour's feature
    harmonic: str  # irrep of the spherical harmonic
    out: str
    coefficients: np.ndarray  # [2 l_out + 1, 2 l_harmonic + 1, 2 l_node + 1], component normalisation


class Edges(NamedTuple):
    """What every layer needs of the edges."""

    harmonics: jax.Array  # [N, M, (l_max + 1)^2], component normalisation, 0 on padding; times the cutoff where `radial` is not
    # [N, M, number of radial functions], times the cutoff unless the model has that applied later; or [N, M, 1], the place in a table
    radial: jax.Array
    slot: jax.Array  # [N, M] place of the sender's species in the species table


RadialNetwork = Callable[[jax.Array], jax.Array]


def convolve(
    neighbors: jax.Array, edges: Edges, radial_network: RadialNetwork, paths: Sequence[Path], irreps: Sequence[str]
) -> dict[str, jax.Array]:
    """Messages of arbitrary neighbour features.

    Args:
      neighbors: feature of the sender of every slot [N, M, D, K].
      edges: see `Edges`.
      radial_network: [..., radial functions] -> [..., P * K], path-major.
      paths: couplings in the order of the network's columns, those of equal output next to each other.
      irreps: of the D components of a feature, in their order.

    Returns:
      output irrep -> [N, 2l+1, number of its paths * K], path-major; irreps in the order of the paths.
    """
    channels = neighbors.shape[-1]
    outputs = tuple(dict.fromkeys(path.out for path in paths))
    rows = _message_rows(paths, irreps)
    ends = np.cumsum([len(output) for output in rows])[:-1].tolist()

    def block(radial: jax.Array, harmonics: jax.Array, neighbors: jax.Array) -> tuple[jax.Array, ...]:
        atoms, slots = radial.shape[:2]
        weights = radial_network(radial).reshape(atoms, slots, len(paths), channels)
        messages = jnp.split(sum_neighbors(tuple(itertools.chain(*rows)), weights, harmonics, neighbors), ends, axis=1)
        return tuple(message.reshape(atoms, 2 * _degree(out) + 1, -1) for out, message in zip(outputs, messages, strict=True))

    size = block_size(bytes_per_atom(neighbors.shape[1], channels, paths, neighbors.dtype), neighbors.shape[0])
    return dict(zip(outputs, map_blocks(block, (edges.radial, edges.harmonics, neighbors), size), strict=True))


def bytes_per_atom(slots: int, channels: int, paths: Sequence[Path], dtype: jnp.dtype) -> int:
    """Temporaries of `convolve`: the radial weights of all edges of an atom, their products with the neighbours' features, and gradients by
    the former.
    """
    return slots * channels * sum(3 + 2 * _degree(path.node) for path in paths) * jnp.dtype(dtype).itemsize


def _message_rows(paths: Sequence[Path], irreps: Sequence[str]) -> list[list[Terms]]:
    """For each output, the terms of its rows (m3, path): `sum_neighbors`."""
    offsets = _offsets(irreps)

    def terms(p: int, m3: int) -> Terms:
        coefficients, first = paths[p].coefficients[m3], _degree(paths[p].harmonic) ** 2
        found = np.argwhere(np.abs(coefficients) > _ZERO).tolist()
        return tuple((p, first + m1, offsets[paths[p].node].start + m2, float(coefficients[m1, m2])) for m1, m2 in found)

    return [[terms(p, m3) for m3 in range(2 * _degree(out) + 1) for p in found] for out, found in _by_output(paths).items()]


def convolve_species(
    table: jax.Array,
    edges: Edges,
    hidden_network: RadialNetwork,
    last: jax.Array,
    paths: Sequence[Path],
    linear: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
) -> dict[str, jax.Array]:
    """The same messages, and a linear map of them, where the neighbour's feature is scalar and depends on its species alone, as in the
    first layer.

    With h[j] = table[slot_j] and R = hidden_network(radial) @ last, the sum over neighbours runs over the few hidden radial functions and
    not over K * P products: B[i, lm, (s, h)] = sum_{j of species s} Y_lm hidden_h, and A[i, lm, k] = sum_{s, h} B[i, lm, (s, h)] W_l[(s,
    h), k] with W_l[(s, h), k] = table[s, k] last[h, (l, k)]. The linear map acts on W where W has fewer rows than A. Exact.

    Args:
      table: features of the species present [S, K].
      edges: see `Edges`.
      hidden_network: [..., radial functions] -> [..., H], the radial network without its last layer.
      last: last layer [H, P * K].
      paths: as in `convolve`; every one has a scalar node irrep, so that every output has one path.
      linear: of the channels of each irrep, {irrep: [N, 2l+1, K]} -> {irrep: [N, 2l+1, C]}; an irrep that is not put in comes out as zeros.

    Returns:
      as `linear`.
    """
    matrices, atoms = _species_matrices(table, last, paths), edges.slot.shape[0]
    degrees = {path.out: _degree(path.harmonic) for path in paths}
    early = sum(matrix.shape[0] for matrix in matrices.values()) <= atoms * sum(2 * l + 1 for l in degrees.values())
    applied = linear(matrices) if early else matrices

    def block(radial: jax.Array, harmonics: jax.Array, slot: jax.Array) -> tuple[jax.Array, ...]:
        hidden = hidden_network(radial)
        member = (slot[..., None] == jnp.arange(table.shape[0], dtype=jnp.int32)).astype(harmonics.dtype)
        by_species = (harmonics[..., None] * member[:, :, None]).reshape(*slot.shape, -1)
        summed = sum_slots(jnp.swapaxes(by_species, 1, 2), hidden).reshape(slot.shape[0], harmonics.shape[-1], -1)
        return tuple(summed[:, l**2 : (l + 1) ** 2] @ applied[out][:, 0] for out, l in degrees.items())

    columns, hidden_width = table.shape[0] * edges.harmonics.shape[-1], last.shape[0]
    per_slot = edges.radial.shape[1] * (columns + 4 * hidden_width)
    size = block_size((per_slot + columns * (hidden_width + table.shape[1])) * table.dtype.itemsize, atoms)
    found = dict(zip(degrees, map_blocks(block, (edges.radial, edges.harmonics, edges.slot), size), strict=True))
    if not early:
        return linear(found)
    zeros = {out: jnp.zeros((atoms, *x.shape[1:]), x.dtype) for out, x in applied.items() if out not in found}
    return {out: zeros[out] if out in zeros else found[out] for out in applied}


def _species_matrices(table: jax.Array, last: jax.Array, paths: Sequence[Path]) -> dict[str, jax.Array]:
    """For every output, what makes its messages of the sums by species: [S * H, 1, K]."""
    weights = last.reshape(last.shape[0], len(paths), -1)
    return {
        path.out: (table[:, None] * weights[:, p] * float(path.coefficients[0, 0, 0])).reshape(-1, 1, table.shape[1])
        for p, path in enumerate(paths)
    }


def _degree(irrep: str) -> int:
    return int(irrep[:-1])


def _by_output(paths: Sequence[Path]) -> dict[str, list[int]]:
    """Output irrep -> its paths; irreps in the order of the paths."""
    found: dict[str, list[int]] = {}
    for p, path in enumerate(paths):
        found.setdefault(path.out, []).append(p)
    return found


def _offsets(irreps: Sequence[str]) -> dict[str, slice]:
    """Where each irrep lies in a feature."""
    offsets, start = {}, 0
    for irrep in irreps:
        offsets[irrep] = slice(start, start + 2 * _degree(irrep) + 1)
        start += 2 * _degree(irrep) + 1
    return offsets
