"""Interaction blocks: features of neighbours -> one message per atom.

A block is a Flax module made as `Block(irreps_in, irreps_out, options)` with two methods:

    sent = block.send(h)                                      what an atom shows to its neighbours, `Features` as h
    message, skip = block(neighbors, h, edges, species)

`neighbors` is what the sender of every slot sent, [N, M, D, K], or, where that depends on its element alone, what each element sent, as
`Features`. `message` is [N, D of `options.message`, K] and `skip` [N, D of irreps_out, K] or None, which the product adds. Atoms are
independent of each other in the second method: it may get some of them at a time. Write your own block by keeping these signatures.

For experiments in one process, pass it to `macejax.build(config, interaction=...)`. Model files, and with them `macejax.save`, the
calculator and the commands, know blocks by their names in `macejax.model.mace.INTERACTIONS` alone, and take the one that the configuration
names: give the calculator `site_energy=module.apply`, or add the block to that dictionary, in every process that loads such a file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.coupling import convolution_paths
from macejax.model.linear import IrrepsLinear, Species, SpeciesLinear, irreps_of, linear, of_present, split
from macejax.model.radial import RadialNetwork, hidden_layers
from macejax.ops.convolution import Edges, Path, convolve, convolve_species
from macejax.ops.slots import add_slots
from macejax.ops.spline import DEGREE, spline

# Beyond this many species in a batch the factorised first layer costs more than the general one (break-even at about 13, 50 neighbours).
_MAX_FACTORISED_SPECIES = 12


class Features(NamedTuple):
    """Node features."""

    values: jax.Array  # [N, D, K]; for features that depend on the element alone, [Z, D, K]
    of_elements: bool  # whether axis 0 runs over the model's elements


class Options(NamedTuple):
    """What a layer is told beside the irreps of its features."""

    num_elements: int
    channels: int
    harmonics: tuple[str, ...]  # irreps of the spherical harmonics
    message: tuple[str, ...]  # irreps of the message
    sent: str  # irreps of what is sent to neighbours
    zeros: tuple[tuple[str, int], ...]  # output irrep -> channels of messages that are zero, for nothing is sent: fan-ins count them
    radial_mlp: tuple[int, ...]
    radial_table: tuple[int, int] | None  # intervals and functions of the table that stands for the network
    avg_num_neighbors: float

    @property
    def sent_channels(self) -> int:
        """Channels of what is sent."""
        return e3nn.Irreps(self.sent)[0].mul

    @property
    def paths(self) -> tuple[Path, ...]:
        """Couplings of what is sent with the harmonics."""
        return convolution_paths(irreps_of(self.sent), self.harmonics, self.message)


class RealAgnostic(nn.Module):
    """mace-torch's RealAgnosticInteractionBlock: a linear map of the message chosen by the receiver's element, no skip connection."""

    irreps_in: str
    irreps_out: str
    options: Options
    density = False  # whether messages are divided by a density, not by the average number of neighbours

    def setup(self) -> None:
        self.linear_up = linear_up(self.options)

    def send(self, h: Features) -> Features:
        return Features(self.linear_up(split(h.values, irreps_of(self.irreps_in))), h.of_elements)

    @nn.compact
    def __call__(self, neighbors: jax.Array | Features, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, None]:
        options = self.options
        message = sum_messages(neighbors, edges, species, options, self.density)
        skip = SpeciesLinear(options.num_elements, options.channels, options.message, name="skip")
        return skip(split(message, options.message), species), None


class RealAgnosticResidual(nn.Module):
    """mace-torch's RealAgnosticResidualInteractionBlock: the skip connection is a linear map of the features chosen by the atom's
    element.
    """

    irreps_in: str
    irreps_out: str
    options: Options
    density = False

    def setup(self) -> None:
        self.linear_up = linear_up(self.options)

    def send(self, h: Features) -> Features:
        return Features(self.linear_up(split(h.values, irreps_of(self.irreps_in))), h.of_elements)

    @nn.compact
    def __call__(self, neighbors: jax.Array | Features, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, jax.Array]:
        message = sum_messages(neighbors, edges, species, self.options, self.density)
        skip = SpeciesLinear(self.options.num_elements, self.options.channels, irreps_of(self.irreps_out), name="skip")
        return message, skip(split(h.values, irreps_of(self.irreps_in)), species, per_species=h.of_elements)


class RealAgnosticDensity(RealAgnostic):
    """mace-torch's RealAgnosticDensityInteractionBlock: messages are divided by 1 + `Density`."""

    density = True


class RealAgnosticDensityResidual(RealAgnosticResidual):
    """mace-torch's RealAgnosticDensityResidualInteractionBlock: messages are divided by 1 + `Density`."""

    density = True


class Density(nn.Module):
    """How many neighbours an atom has, as the model learns to count them: the sum of tanh(f^2), f linear in the radial functions."""

    @nn.compact
    def __call__(self, edges: Edges) -> jax.Array:
        """[N]."""
        num = edges.radial.shape[-1]
        weight = self.param("weight", nn.initializers.normal(1.0), (num, 1), edges.radial.dtype)
        return count_neighbors(edges.radial @ weight * (1 / math.sqrt(num)), edges)


def count_neighbors(f: jax.Array, edges: Edges) -> jax.Array:
    """Sum over neighbours of tanh(f^2), f [N, M, 1] -> [N]; cut off with the harmonics where f is not."""
    return add_slots(jnp.tanh(f[..., 0] ** 2) * edges.harmonics[..., 0])  # Y_00 is 1, 0 on padding, or the cutoff


class RadialTable(nn.Module):
    """What stands for a radial network and, of a block with one, for the argument of its density; `macejax.tabulate` fills it.

    Attributes:
      intervals, functions: of the table.
      width: of the last layer.
      density: whether one function more is the density's.
    """

    intervals: int
    functions: int
    width: int
    density: bool

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """Table of `ops.spline.spline` [intervals + 1, 6, functions, and one more], and the last layer [functions, width]."""
        shape = (self.intervals + 1, DEGREE + 1, self.functions + self.density)
        coefficients = self.param("coefficients", nn.initializers.zeros, shape, dtype)
        return coefficients, self.param("last", nn.initializers.zeros, (self.functions, self.width), dtype)


def sum_messages(neighbors: jax.Array | Features, edges: Edges, species: Species, options: Options, density: bool = False) -> jax.Array:
    """Convolution over neighbours, linear, division by the average number of neighbours or by 1 + a density: what most blocks share.

    To be called inside a block's `@nn.compact` method, which then owns the parameters radial_mlp, linear and density, or
    radial_table and linear.

    Returns:
      messages [N, D of the message, K].
    """
    paths, irreps = options.paths, irreps_of(options.sent)
    widths = (*options.radial_mlp, len(paths) * options.sent_channels)
    hidden: Callable[[jax.Array], jax.Array]
    counted: Callable[[], jax.Array]
    if options.radial_table is None:
        *layers, last = RadialNetwork(widths, name="radial_mlp")(edges.radial.shape[-1], edges.radial.dtype)
        hidden = functools.partial(hidden_layers, layers)
        counted = lambda: Density(name="density")(edges)  # noqa: E731  (a module is made where it is used)
    else:
        coefficients, last = RadialTable(*options.radial_table, widths[-1], density, name="radial_table")(edges.radial.dtype)
        hidden = lambda x: spline(coefficients[..., : last.shape[0]], x[..., 0])  # noqa: E731
        counted = lambda: count_neighbors(spline(coefficients[..., last.shape[0] :], edges.radial[..., 0]), edges)  # noqa: E731
    mixed = linear(options.message, options.channels, "linear", options.zeros).blocks
    if isinstance(neighbors, Features):
        blocks = convolve_species(of_present(neighbors.values, species)[:, 0], edges, hidden, last, paths, mixed)
    else:
        blocks = mixed(convolve(neighbors, edges, lambda x: hidden(x) @ last, paths, irreps))
    message = jnp.concatenate(list(blocks.values()), axis=1)
    if not density:
        return message / options.avg_num_neighbors
    return message / (1 + counted())[:, None, None]


def linear_up(options: Options) -> IrrepsLinear:
    """The map from features to what is sent."""
    return linear(irreps_of(options.sent), options.sent_channels)


def factorises(sent: Features, species: Species) -> bool:
    """Whether a block is given what each element sent, not what each neighbour sent: scalars of few elements."""
    return sent.of_elements and sent.values.shape[1] == 1 and species.table.shape[0] <= _MAX_FACTORISED_SPECIES


def of_atoms(h: Features, species: Species) -> jax.Array:
    """Features of every atom [N, D, K]."""
    return jnp.einsum("ns,smk->nmk", species.member, of_present(h.values, species)) if h.of_elements else h.values
