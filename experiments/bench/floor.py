"""The least that energies and forces take, as an estimate: FLOPs of the factorised algorithm, each thing computed once, and bytes moved."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

RADIAL_WIDTH, NUM_BESSEL, HARMONICS = 64, 8, 16
# For hidden irreps up to L = 0, 1, 2 and harmonics up to 3: paths of the second layer, sum over them of (2 l1 + 1)(2 l2 + 1), and terms of
# the polynomials of degree 3.
PATHS = {0: 4, 1: 10, 2: 17}
PRODUCTS = {0: 16, 1: 88, 2: 243}
TERMS = {0: 94, 1: 498, 2: 1332}


def flops_per_atom(channels: int, highest: int, neighbors: float, species: int) -> float:
    """Energy and forces of two layers: forward, and backward without derivatives of parameters.

    Per edge the radial network twice forward and backward, its last layer in the second convolution alone (the first is factorised), and
    the sum over neighbours; per atom linear maps and polynomials.
    """
    hidden = 2 * (NUM_BESSEL * RADIAL_WIDTH + 2 * RADIAL_WIDTH**2)
    last = 2 * RADIAL_WIDTH * channels * PATHS[highest]
    first_sum = 2 * HARMONICS * RADIAL_WIDTH
    second_sum = 2 * channels * PRODUCTS[highest]
    per_edge = 2 * (2 * hidden + last) + 3 * (first_sum + second_sum)
    mixing = 2 * species * HARMONICS * RADIAL_WIDTH * channels
    features = (highest + 1) ** 2
    linear = 2 * channels**2 * (HARMONICS + 2 * features + PRODUCTS[highest] / 2)
    contraction = 3 * channels * (TERMS[highest] + TERMS[0])
    return neighbors * per_edge + 2 * (mixing + linear) + 3 * contraction


def bytes_per_atom(channels: int, highest: int, neighbors: float) -> float:
    """Energy and forces of two layers in float32, where all that belongs to an edge stays in the cache.

    Arrays of nodes are written and read once forward and once backward; edges, a vector and two numbers each, are read in both layers and
    written as gradients.
    """
    node = channels * (4 * (HARMONICS + PRODUCTS[highest]) + 8 * (highest + 1) ** 2)
    edge = 3 * (3 + 2)
    return 4 * (node + neighbors * edge)


def matmul_rate() -> float:
    """FLOP/s of a large float32 matrix product on this machine: best of several."""
    return 2 * 2048**3 / _best(jax.jit(lambda a: a @ a), jnp.ones((2048, 2048), jnp.float32))


def stream_rate() -> float:
    """Bytes/s read and written when a large array is negated: best of several."""
    x = jnp.ones(2**26, jnp.float32)
    return 2 * x.nbytes / _best(jax.jit(jnp.negative), x)


def _best(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    jax.block_until_ready(function(x))
    best = float("inf")
    for _ in range(7):
        begun = time.perf_counter()
        jax.block_until_ready(function(x))
        best = min(best, time.perf_counter() - begun)
    return best
