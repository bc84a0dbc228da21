"""What the layers read of a batch: radial functions and harmonics of every edge, species, heads; and the repulsion of nuclei."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.config import ModelConfig
from macejax.data.species import covalent_radii
from macejax.model.geometry import rows, safe_norm, spherical_harmonics
from macejax.model.linear import Species
from macejax.model.radial import BASES, TRANSFORMS, polynomial_cutoff
from macejax.model.repulsion import zbl
from macejax.ops.convolution import Edges
from macejax.ops.slots import add_slots


def make_edges(vectors: jax.Array, graph: jraph.GraphsTuple, config: ModelConfig) -> Edges:
    """Radial functions and harmonics of edge vectors [N, M, 3] (Angstrom)."""
    mask = rows(graph.edges["mask"], graph)
    # Beyond the cutoff, where radial functions vanish with their derivatives; the harmonics are masked too, for blocks whose radial part
    # does not: on padding, and on edges that only a list with a skin has.
    harmless = jnp.asarray([0.0, 0.0, 2 * config.cutoff], vectors.dtype)
    vectors = jnp.where(mask[..., None], -vectors, harmless)  # MACE's vectors point from sender to receiver
    lengths = safe_norm(vectors)
    if config.radial_table is not None:
        return _for_tables(vectors, lengths, mask, graph, config)
    distances = lengths
    if config.distance_transform != "none":
        distances = TRANSFORMS[config.distance_transform](lengths, sum(_of_pairs(covalent_radii(config.elements), graph, vectors.dtype)))
    harmonics = jnp.where((mask & (lengths < config.cutoff))[..., None], spherical_harmonics(vectors, lengths, config.l_max), 0)
    cutoff = polynomial_cutoff(lengths, config.cutoff, config.cutoff_power)[..., None]
    radial = BASES[config.radial_basis](distances, config.num_bessel, config.cutoff)
    if config.apply_cutoff:
        radial = radial * cutoff
    else:  # messages are linear in the harmonics: to cut those off is to cut off the weights
        harmonics = harmonics * cutoff
    return Edges(harmonics, radial, graph.nodes["slot"][rows(graph.senders, graph)])


def _for_tables(vectors: jax.Array, lengths: jax.Array, mask: jax.Array, graph: jraph.GraphsTuple, config: ModelConfig) -> Edges:
    """Edges whose one radial function is the length, in intervals of the tables of radial functions."""
    assert config.radial_table is not None
    harmonics = jnp.where((mask & (lengths < config.cutoff))[..., None], spherical_harmonics(vectors, lengths, config.l_max), 0)
    if not config.apply_cutoff:
        harmonics = harmonics * polynomial_cutoff(lengths, config.cutoff, config.cutoff_power)[..., None]
    radial = lengths[..., None] * (config.radial_table.intervals / config.cutoff)
    return Edges(harmonics, radial, graph.nodes["slot"][rows(graph.senders, graph)])


def make_species(graph: jraph.GraphsTuple, dtype: jnp.dtype) -> Species:
    """Which element each atom is, among those present."""
    table = graph.globals["species_table"]
    return Species(table, (graph.nodes["slot"][:, None] == jnp.arange(table.shape[0], dtype=jnp.int32)).astype(dtype))


def make_heads(graph: jraph.GraphsTuple, num_heads: int, dtype: jnp.dtype) -> jax.Array:
    """The head of each atom's structure, one-hot [N, H]."""
    if num_heads == 1:
        return jnp.ones((graph.nodes["graph"].shape[0], 1), dtype)
    head = graph.globals["head"][graph.nodes["graph"]]
    return (head[:, None] == jnp.arange(num_heads, dtype=jnp.int32)).astype(dtype)


def repulsion(vectors: jax.Array, graph: jraph.GraphsTuple, config: ModelConfig) -> jax.Array:
    """ZBL energy of every atom [N] (eV). Of heavy elements it may reach beyond the cutoff, where it ends as in mace-torch, with or without
    a skin.
    """
    lengths = safe_norm(vectors)
    radii = sum(_of_pairs(covalent_radii(config.elements), graph, vectors.dtype))
    numbers = _of_pairs(np.array(config.elements, np.float64), graph, vectors.dtype)
    pairs = zbl(lengths, *numbers, radii, config.cutoff_power)
    return add_slots(jnp.where(rows(graph.edges["mask"], graph) & (lengths < config.cutoff), pairs, 0))


def _of_pairs(values: np.ndarray, graph: jraph.GraphsTuple, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Values [Z] of the elements of receiver [N, 1] and sender [N, M] of every slot."""
    of_atoms = jnp.asarray(values, dtype)[graph.nodes["species"]]
    return of_atoms[:, None], of_atoms[rows(graph.senders, graph)]
