"""Interaction blocks: features of neighbours -> one message per atom.

A block is a Flax module made as `Block(irreps_in, irreps_out, options)` with two methods:

    sent = block.send(h)                                      what an atom shows to its neighbours, `Features` as h
    message, skip = block(neighbors, h, edges, species)

`neighbors` is what the sender of every slot sent, [N, M, D, K], or, where that depends on its element alone, what each element sent, as
`Features`. `message` is [N, (l_max + 1)^2, K] and `skip` [N, D of irreps_out, K] or None, which the product adds. Atoms are independent of
each other in the second method: it may get some of them at a time. Write your own block by keeping these signatures, and pass it to
`macejax.model.mace.build` or add it to the dictionary there.
"""

from __future__ import annotations

import functools
import math
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
    density = False  # whether messages are divided by a density, not by the average number of neighbours

    def setup(self) -> None:
        self.linear_up = IrrepsLinear(self.options.channels)

    def send(self, h: Features) -> Features:
        return Features(self.linear_up(_split(h, self.irreps_in)), h.of_elements)

    @nn.compact
    def __call__(self, neighbors: jax.Array | Features, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, None]:
        message = sum_messages(neighbors, edges, species, self.irreps_in, self.options, self.density)
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
    density = False

    def setup(self) -> None:
        self.linear_up = IrrepsLinear(self.options.channels)

    def send(self, h: Features) -> Features:
        return Features(self.linear_up(_split(h, self.irreps_in)), h.of_elements)

    @nn.compact
    def __call__(self, neighbors: jax.Array | Features, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, jax.Array]:
        message = sum_messages(neighbors, edges, species, self.irreps_in, self.options, self.density)
        names = [name for name, _ in degrees(self.irreps_out)]
        skip = SpeciesLinear(self.options.num_elements, self.options.channels, names, name="skip")
        return message, skip(_split(h, self.irreps_in), species, per_species=h.of_elements)


class RealAgnosticDensity(RealAgnostic):
    """mace-torch's RealAgnosticDensityInteractionBlock: messages are divided by 1 + `Density`."""

    density = True


class RealAgnosticDensityResidual(RealAgnosticResidual):
    """mace-torch's RealAgnosticDensityResidualInteractionBlock: messages are divided by 1 + `Density`."""

    density = True


class Density(nn.Module):
    """How many neighbours an atom has, as the model learns to count them: the sum of tanh(f^2), f linear in the radial functions."""

    @nn.compact
    def __call__(self, radial: jax.Array) -> jax.Array:
        """Radial functions [N, M, B], 0 on padding -> [N]."""
        num = radial.shape[-1]
        weight = self.param("weight", nn.initializers.normal(1.0), (num, 1), radial.dtype)
        return jnp.sum(jnp.tanh((radial @ (weight / math.sqrt(num))) ** 2), axis=(1, 2))


def sum_messages(
    neighbors: jax.Array | Features, edges: Edges, species: Species, irreps_in: str, options: Options, density: bool = False
) -> jax.Array:
    """Convolution over neighbours, linear, division by the average number of neighbours or by 1 + a density: what most blocks share.

    To be called inside a block's `@nn.compact` method, which then owns the parameters radial_mlp, linear and density.

    Returns:
      messages [N, (l_max + 1)^2, K].
    """
    channels, l_max = options.channels, options.l_max
    paths = convolution_paths(irreps_in, l_max)
    widths = (*options.radial_mlp, len(paths) * channels)
    layers = RadialNetwork(widths, name="radial_mlp")(edges.radial.shape[-1], edges.radial.dtype)
    if isinstance(neighbors, Features):
        hidden = functools.partial(hidden_layers, layers[:-1])
        summed = convolve_species(of_present(neighbors.values, species)[:, 0], edges, hidden, layers[-1], paths, l_max)
    else:
        summed = convolve(neighbors, edges, lambda x: hidden_layers(layers[:-1], x) @ layers[-1], paths, l_max)
    blocks = dict(zip(natural_irreps(l_max), summed, strict=True))
    message = IrrepsLinear(channels, name="linear")(blocks)
    if not density:
        return message / options.avg_num_neighbors
    return message / (1 + Density(name="density")(edges.radial))[:, None, None]


def factorises(sent: Features, species: Species) -> bool:
    """Whether a block is given what each element sent, not what each neighbour sent: scalars of few elements."""
    return sent.of_elements and sent.values.shape[1] == 1 and species.table.shape[0] <= _MAX_FACTORISED_SPECIES


def _split(h: Features, irreps: str) -> dict[str, jax.Array]:
    return {name: h.values[:, part] for name, part in slices(irreps).items()}
