"""A layer of a model, on rows of neighbour slots in classes of like width (`macejax.model.rows`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.interaction import Features
from macejax.model.linear import Species
from macejax.model.rows import Layout
from macejax.ops.blocks import Gathered, map_energies
from macejax.ops.convolution import Edges


class Inputs(NamedTuple):
    """What a layer is given of a class of rows (`macejax.model.rows`)."""

    neighbors: Any  # features of neighbours, as the interaction takes them
    h: Features
    edges: Edges
    species: Species
    heads: jax.Array  # [N, H], one-hot


class Layer(NamedTuple):
    """The modules of a layer; without a readout it adds nothing to the energy."""

    interaction: nn.Module
    product: nn.Module
    readout: nn.Module | None

    def __call__(self, classes: Sequence[Inputs]) -> tuple[jax.Array, jax.Array | None]:
        """Features [N, D, K] and energies [N] of all atoms; each class of rows has messages of its own."""
        messages, skips = zip(*(self.interaction(part.neighbors, part.h, part.edges, part.species) for part in classes), strict=True)
        species = Species(classes[0].species.table, _joined([part.species.member for part in classes]))
        values = self.product(_joined(messages), None if skips[0] is None else _joined(skips), species)
        return values, None if self.readout is None else self.readout(values, _joined([part.heads for part in classes]))


def inputs_of(
    layout: Layout, neighbors: Sequence[Any], edges: Sequence[Edges], h: Features, species: Species, heads: jax.Array
) -> list[Inputs]:
    """What a layer is given of every class, from node arrays of all."""
    values = [h.values] * len(edges) if h.of_elements else layout.by_class(h.values)
    parts = zip(neighbors, values, edges, layout.by_class(species.member), layout.by_class(heads), strict=True)
    return [
        Inputs(sent, Features(own, h.of_elements), edge, Species(species.table, member), head) for sent, own, edge, member, head in parts
    ]


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def map_layer(layer: Layer, neighbors: Gathered, classes: Sequence[Inputs], blocks: int) -> jax.Array:
    """Energies of a layer, block by block."""
    modules: Sequence[Any] = layer
    params = [module.variables["params"] for module in modules]
    unbound = [module.clone(parent=None) for module in modules]

    def energies(params: tuple[Any, jax.Array], neighbors: tuple[jax.Array, ...], arrays: tuple[Any, ...]) -> jax.Array:
        weights, table = params
        interaction, product, readout = (functools.partial(m.apply, {"params": w}) for m, w in zip(unbound, weights, strict=True))
        parts = [
            Inputs(sent, Features(values, of_elements=False), edges, Species(table, member), heads)
            for sent, (values, edges, member, heads) in zip(neighbors, arrays, strict=True)
        ]
        return Layer(interaction, product, readout)(parts)[1]

    arrays = tuple((part.h.values, part.edges, part.species.member, part.heads) for part in classes)
    return map_energies(energies, (params, classes[0].species.table), neighbors, arrays, blocks)
