"""mace-torch's RealAgnosticAttResidualInteractionBlock: radial weights that depend on the features of both ends of an edge."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.interaction import Features, Options, linear_up, of_atoms
from macejax.model.linear import Species, irreps_of, linear, split
from macejax.model.radial import RadialNetwork, hidden_layers
from macejax.ops.convolution import Edges, convolve

DOWN = 64  # scalars that each end of an edge gives to the radial network
HIDDEN = (256, 256, 256)  # fixed in mace-torch, whatever radial_mlp says


class RealAgnosticAttResidual(nn.Module):
    """The radial network reads radial functions and scalars of sender and receiver; the skip connection is one linear map for all
    elements.

    What is sent is [D + rows, K]: the feature, then the scalars, padded to whole rows of K channels.
    """

    irreps_in: str
    irreps_out: str
    options: Options

    def setup(self) -> None:
        self.linear_up = linear_up(self.options)
        self.linear_down = linear(("0e",), DOWN)

    def send(self, h: Features) -> Features:
        blocks = split(h.values, irreps_of(self.irreps_in))
        down, channels = self.linear_down(blocks)[:, 0], self.options.sent_channels
        rows = -(-DOWN // channels)
        padded = jnp.pad(down, ((0, 0), (0, rows * channels - DOWN))).reshape(-1, rows, channels)
        return Features(jnp.concatenate([self.linear_up(blocks), padded], axis=1), h.of_elements)

    @nn.compact
    def __call__(self, neighbors: jax.Array, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, jax.Array]:
        options, irreps = self.options, irreps_of(self.options.sent)
        blocks = split(of_atoms(h, species), irreps_of(self.irreps_in))
        size = sum(2 * int(irrep[:-1]) + 1 for irrep in irreps)
        of_sender = neighbors[:, :, size:].reshape(*neighbors.shape[:2], -1)[..., :DOWN]
        of_receiver = jnp.broadcast_to(self.linear_down(blocks), of_sender.shape)
        inputs = jnp.concatenate([edges.radial, of_sender, of_receiver], axis=-1)
        paths = options.paths
        widths = (*HIDDEN, len(paths) * options.sent_channels)
        layers = RadialNetwork(widths, name="radial_mlp")(inputs.shape[-1], inputs.dtype)
        found = convolve(
            neighbors[:, :, :size], edges._replace(radial=inputs), lambda x: hidden_layers(layers[:-1], x) @ layers[-1], paths, irreps
        )
        message = linear(options.message, options.channels, "linear", options.zeros)(found) / options.avg_num_neighbors
        return message, linear(irreps_of(self.irreps_out), options.channels, name="skip")(blocks)
