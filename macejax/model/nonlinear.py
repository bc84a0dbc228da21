"""mace-torch's RealAgnosticResidualNonLinearInteractionBlock, of the OMOL and MH models: gated messages, radial weights by element pair."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.interaction import Features, Options, count_neighbors, linear_up, of_atoms
from macejax.model.linear import IrrepsLinear, Species, irreps_of, linear, of_present, split
from macejax.model.radial import SIGMOID_SCALE, SILU_SCALE, NormedNetwork, affine_matrix, normed_layers
from macejax.ops.convolution import Edges, convolve, convolve_species

DENSITY_WIDTHS = (64, 1)
ALPHA = 20.0  # initial divisor of messages
SMALL = 1e-3  # element embeddings start as small as this


class RealAgnosticResidualNonLinear(nn.Module):
    """Messages are divided by alpha + beta * density, added to a linear map of the atom's own feature, and gated: silu of scalars, sigmoid
    gates on the others. The radial network reads radial functions and embeddings of the elements of sender and receiver.
    """

    irreps_in: str
    irreps_out: str
    options: Options

    def setup(self) -> None:
        self.linear_up = linear_up(self.options)

    def send(self, h: Features) -> Features:
        return Features(self.linear_up(split(h.values, irreps_of(self.irreps_in))), h.of_elements)

    @nn.compact
    def __call__(self, neighbors: jax.Array | Features, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, jax.Array]:
        options, sent, paths = self.options, irreps_of(self.options.sent), self.options.paths
        features = split(of_atoms(h, species), irreps_of(self.irreps_in))
        embeddings = self._embeddings(features["0e"].shape[-1], species, edges.radial.dtype)
        edges = _with_elements(edges, species)
        hidden, last = self._network("radial_mlp", (*options.radial_mlp, len(paths) * options.sent_channels), embeddings, edges)
        widths = tuple((irrep, options.channels * (len(options.message) if irrep == "0e" else 1)) for irrep in options.message)
        mixed = IrrepsLinear(widths, options.zeros, name="linear_1").blocks
        if isinstance(neighbors, Features):
            summed = convolve_species(of_present(neighbors.values, species)[:, 0], edges, hidden, last, paths, mixed)
        else:
            summed = mixed(convolve(neighbors, edges, lambda x: hidden(x) @ last, paths, sent))
        own = IrrepsLinear(widths, name="linear_res").blocks(split(self.linear_up(features), sent))
        hidden, last = self._network("density", DENSITY_WIDTHS, embeddings, edges)
        alpha = self.param("alpha", nn.initializers.constant(ALPHA), (), edges.radial.dtype)
        beta = self.param("beta", nn.initializers.zeros, (), edges.radial.dtype)
        divisor = (alpha + beta * count_neighbors(hidden(edges.radial) @ last, edges))[:, None, None]
        gated = _gate({irrep: x / divisor + own[irrep] for irrep, x in summed.items()})
        message = linear(options.message, options.channels, name="linear_2")(gated)
        return message, linear(irreps_of(self.irreps_out), options.channels, name="skip")(features)

    def _embeddings(self, width: int, species: Species, dtype: jnp.dtype) -> list[jax.Array]:
        """Embeddings of the elements present as sender and as receiver, [S, width] each."""
        num = self.options.num_elements
        names = ("source_embedding", "target_embedding")
        return [of_present(self.param(name, _small_uniform, (num, width), dtype), species) / math.sqrt(num) for name in names]

    def _network(
        self, name: str, widths: tuple[int, ...], embeddings: list[jax.Array], edges: Edges
    ) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
        """A network of the edges, without its last layer, and that layer.

        In mace-torch it reads both embeddings of every edge, which may be a thousand numbers. The first layer is linear in them, so that
        here its weights are folded with the few that there are, and it reads which elements an edge has.
        """
        width, num = embeddings[0].shape[1], edges.radial.shape[-1] - 2 * embeddings[0].shape[0]
        first, *rest = NormedNetwork(widths, name=name)(num + 2 * width, edges.radial.dtype)
        weights = jnp.split(first.weight, (num, num + width))
        folded = [weights[0], *(table @ weight for table, weight in zip(embeddings, weights[1:], strict=True))]
        layers = [first._replace(weight=jnp.concatenate(folded)), *rest]
        return lambda x: normed_layers(layers[:-1], x), affine_matrix(layers[-1])


def _with_elements(edges: Edges, species: Species) -> Edges:
    """Edges whose radial functions are followed by the sender's element, one-hot [S], and the receiver's."""
    member = (edges.slot[..., None] == jnp.arange(species.table.shape[0], dtype=jnp.int32)).astype(edges.radial.dtype)
    receiver = jnp.broadcast_to(species.member[:, None], member.shape)
    return edges._replace(radial=jnp.concatenate([edges.radial, member, receiver], axis=-1))


def _gate(blocks: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """silu of the first scalars; the other scalars are gates, one per channel of each of the other irreps."""
    scalars, *gates = jnp.split(blocks["0e"], len(blocks), axis=-1)
    rest = [irrep for irrep in blocks if irrep != "0e"]
    gated = {irrep: blocks[irrep] * jax.nn.sigmoid(gate) * SIGMOID_SCALE for irrep, gate in zip(rest, gates, strict=True)}
    return {"0e": jax.nn.silu(scalars) * SILU_SCALE, **gated}


def _small_uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -SMALL, SMALL)
