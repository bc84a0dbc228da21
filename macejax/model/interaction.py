"""Interaction blocks: features of neighbours -> one message per atom.

A block is a Flax module made as `Block(irreps_in, irreps_out, options)` and called as

    message, skip = block(h, edges, species)

`h` is `Features`, `message` [N, (l_max + 1)^2, K], `skip` [N, D of irreps_out, K] or None, which the product adds. Write your own by
keeping that signature, and pass it to `macejax.model.mace.build` or add it to the dictionary there.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.coupling import convolution_paths
from macejax.model.linear import IrrepsLinear, Species, SpeciesLinear, degrees, natural_irreps, of_present, slices
from macejax.model.radial import RadialNetwork, hidden_layers
from macejax.ops.convolution import Edges, convolve, convolve_species

# Beyond this many species in a batch the factorised first layer costs more than the general one (break-even at about 13, 50 neighbours).
_MAX_FACTORISED_SPECIES = 12


class Features(NamedTuple):
    """Node features."""

    values: jax.Array  # [N, D, K]; for features that depend on the element alone, [Z, D, K]
    of_elements: bool  # whether axis 0 runs over the model's elements


class Options(NamedTuple):
    """What all layers share."""

    num_elements: int
    channels: int
    l_max: int
    radial_mlp: tuple[int, ...]
    avg_num_neighbors: float


class RealAgnostic(nn.Module):
    """mace-torch's RealAgnosticInteractionBlock: a linear map of the message chosen by the receiver's element, no skip connection."""

    irreps_in: str
    irreps_out: str
    options: Options

    @nn.compact
    def __call__(self, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, None]:
        message = sum_messages(h, edges, species, self.irreps_in, self.options)
        names = natural_irreps(self.options.l_max)
        blocks = {name: message[:, degree**2 : (degree + 1) ** 2] for degree, name in enumerate(names)}
        return SpeciesLinear(self.options.num_elements, self.options.channels, names, name="skip")(blocks, species), None


class RealAgnosticResidual(nn.Module):
    """mace-torch's RealAgnosticResidualInteractionBlock: the skip connection is a linear map of the features chosen by the atom's
    element.
    """

    irreps_in: str
    irreps_out: str
    options: Options

    @nn.compact
    def __call__(self, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, jax.Array]:
        message = sum_messages(h, edges, species, self.irreps_in, self.options)
        blocks = {name: h.values[:, part] for name, part in slices(self.irreps_in).items()}
        names = [name for name, _ in degrees(self.irreps_out)]
        skip = SpeciesLinear(self.options.num_elements, self.options.channels, names, name="skip")
        return message, skip(blocks, species, per_species=h.of_elements)


def sum_messages(h: Features, edges: Edges, species: Species, irreps_in: str, options: Options) -> jax.Array:
    """Linear, convolution over neighbours, linear, division by the average number of neighbours: what most blocks share.

    To be called inside a block's `@nn.compact` method, which then owns the parameters linear_up, radial_mlp and linear.

    Returns:
      messages [N, (l_max + 1)^2, K].
    """
    channels, l_max = options.channels, options.l_max
    up = IrrepsLinear(channels, name="linear_up")({name: h.values[:, part] for name, part in slices(irreps_in).items()})
    paths = convolution_paths(irreps_in, l_max)
    widths = (*options.radial_mlp, len(paths) * channels)
    layers = RadialNetwork(widths, name="radial_mlp")(edges.radial.shape[-1], edges.radial.dtype)
    scalar = up.shape[1] == 1
    if h.of_elements and scalar and species.table.shape[0] <= _MAX_FACTORISED_SPECIES:
        hidden = functools.partial(hidden_layers, layers[:-1])
        summed = convolve_species(of_present(up, species)[:, 0], edges, hidden, layers[-1], paths, l_max)
    else:
        values = jnp.einsum("ns,smk->nmk", species.member, of_present(up, species)) if h.of_elements else up
        summed = convolve(values, edges, lambda x: hidden_layers(layers[:-1], x) @ layers[-1], paths, l_max)
    blocks = dict(zip(natural_irreps(l_max), summed, strict=True))
    return IrrepsLinear(channels, name="linear")(blocks) / options.avg_num_neighbors
