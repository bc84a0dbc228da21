"""A potential that is no MACE: Morse pairs, an embedded density, a three-body term and one round of messages (reach: two cutoffs)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.model.geometry import rows
from macejax.ops.gather import gather_neighbors

FEATURE_IRREPS = ("0e+1o",)


class ToyConfig(NamedTuple):
    """What check_potential asks of a configuration."""

    elements: tuple[int, ...]
    cutoff: float  # Angstrom
    num_interactions: int = 2


def init(config: ToyConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters, a few tenths of an eV and about an Angstrom."""
    rng = np.random.default_rng(seed)
    count = len(config.elements)
    return {
        "depth": rng.uniform(0.1, 0.3, count),  # eV
        "radius": rng.uniform(1.0, 1.6, count),  # Angstrom, half of the bond length
        "density": rng.uniform(0.2, 0.6, count),
        "embedding": rng.uniform(0.05, 0.1, (3, count)),  # eV, for the density, the three-body and the message term
    }


def make(config: ToyConfig, envelope: Any = None) -> Any:
    """The site energy of the toy; `envelope(x)` of x = r / cutoff squared may replace the smooth one."""
    envelope = envelope or smooth

    def site_energy(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        mask = rows(graph.edges["mask"], graph)
        pair, features, message = terms(params, vectors, graph, envelope, config.cutoff)
        strength = params["embedding"][:, graph.nodes["species"]]
        density, polar = features[:, 0, 0], features[:, 1:, 0]
        energy = jnp.sum(jnp.where(mask, pair, 0.0), axis=1) + strength[0] * density**2
        energy += strength[1] * jnp.sum(polar**2, axis=1) + strength[2] * density * message
        return jnp.where(graph.nodes["mask"], energy, 0.0)

    return site_energy


def features(config: ToyConfig) -> Any:
    """The hidden features of the toy, one layer [N, 4, 1] of irreps 0e+1o."""
    return lambda params, vectors, graph: [terms(params, vectors, graph, smooth, config.cutoff)[1]]


def terms(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple, envelope: Any, cutoff: float) -> tuple[jax.Array, ...]:
    """Pair energies [N, M], features [N, 4, 1] and the densities of the neighbours, summed [N]."""
    species = graph.nodes["species"]
    senders = rows(graph.senders, graph)
    mask = rows(graph.edges["mask"], graph)
    square = jnp.sum(vectors**2, axis=-1)  # [N, M]
    weight = jnp.where(mask, envelope(square / cutoff**2), 0.0)
    distance = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    distance = jnp.where(square > 0, distance, 0.0)

    def both(values: jax.Array) -> jax.Array:
        return values[species][:, None] + values[species[senders]]

    morse = (1 - jnp.exp(both(params["radius"]) - distance)) ** 2 - 1
    pair = both(params["depth"]) * morse * weight
    overlap = weight * jnp.exp(-both(params["density"]) * square)  # [N, M]
    density = jnp.sum(overlap, axis=1)
    polar = jnp.sum(overlap[..., None] * vectors, axis=1)
    received = gather_neighbors(density[:, None], senders, graph.edges["reverse"])[..., 0]
    return pair, jnp.concatenate([density[:, None], polar], axis=1)[..., None], jnp.sum(overlap * received, axis=1)


def smooth(x: jax.Array) -> jax.Array:
    """(1 - x)^4 inside, 0 outside, of x = (r / cutoff)^2: three continuous derivatives."""
    return jnp.where(x < 1, (1 - jnp.where(x < 1, x, 0.0)) ** 4, 0.0)
