"""MACE: batch -> site energies (Batatia et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
from flax import linen as nn

from macejax.config import ModelConfig
from macejax.model.architecture import (
    block_names,
    correlations,
    harmonics,
    has_readout,
    layer_irreps,
    message_irreps,
    num_channels,
    sent_irreps,
    silent_channels,
)
from macejax.model.attention import RealAgnosticAttResidual
from macejax.model.edges import make_edges, make_heads, make_species, repulsion
from macejax.model.embedding import JointEmbedding, NodeEmbedding
from macejax.model.interaction import (
    Features,
    Options,
    RealAgnostic,
    RealAgnosticDensity,
    RealAgnosticDensityResidual,
    RealAgnosticResidual,
    factorises,
    of_atoms,
)
from macejax.model.layer import Layer, inputs_of, map_layer
from macejax.model.linear import Species
from macejax.model.nonlinear import RealAgnosticResidualNonLinear
from macejax.model.product import ProductBasis
from macejax.model.readout import READOUTS, LinearReadout
from macejax.model.rows import Layout, make_layout
from macejax.ops.blocks import Gathered, block_size, num_blocks
from macejax.ops.convolution import bytes_per_atom
from macejax.ops.gather import gather_classes

Block = Callable[..., nn.Module]

# Every interaction block by name: a new one is one file and one line here, and the conformance tests run over it.
INTERACTIONS: dict[str, Block] = {
    block.__name__: block
    for block in (
        RealAgnostic,
        RealAgnosticResidual,
        RealAgnosticDensity,
        RealAgnosticDensityResidual,
        RealAgnosticAttResidual,
        RealAgnosticResidualNonLinear,
    )
}


# Those whose radial network is a function of the edge's length alone, so that a table can stand for it.
TABULATED = ("RealAgnostic", "RealAgnosticResidual", "RealAgnosticDensity", "RealAgnosticDensityResidual")


class Layers(NamedTuple):
    """What the layers of a model give."""

    features: list[jax.Array]  # of each layer, [N, D, K]
    energies: list[jax.Array]  # of each layer that has a readout, [N]
    embedded: jax.Array | None  # energies [N] that do not depend on the structure, where there is an embedding readout


class MACE(nn.Module):
    """Site energies as a function of edge vectors.

    Attributes:
      config: architecture and constants.
      interaction_first, interaction: blocks to use instead of those that the configuration names.
      matmul_precision: of matrix products in float32, as `jax.default_matmul_precision` names them.
    """

    config: ModelConfig
    interaction_first: Block | None = None
    interaction: Block | None = None
    matmul_precision: str = "highest"

    def __call__(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        """Interaction energy of every atom [N] (eV), 0 on padding.

        Args:
          vectors: edge vectors [N, M, 3] (Angstrom), `geometry.edge_vectors(graph)`.
          graph: batch in row form; positions and cell are not read.
        """
        contributions, embedded = self._energies(vectors, graph)
        energies = self._scaled(jnp.sum(contributions, axis=-1), graph)
        return jnp.where(graph.nodes["mask"], energies if embedded is None else energies + embedded, 0)

    def contributions(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        """What each readout adds to every atom's energy, [N, readouts] (eV), before scale and shift; before them, where the model has it,
        the repulsion of nuclei.
        """
        return self._energies(vectors, graph)[0]

    def features(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> list[jax.Array]:
        """Node features of every layer, [N, D, K], irreps in ascending degree (`layer_irreps`)."""
        return self._layers(vectors, graph, energies_alone=False).features

    def _scaled(self, energies: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        """Energies [N] after scale and shift, which this class has not."""
        del graph
        return energies

    def _energies(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> tuple[jax.Array, jax.Array | None]:
        layers = self._layers(vectors, graph)
        energies = [repulsion(vectors, graph, self.config), *layers.energies] if self.config.pair_repulsion else layers.energies
        return jnp.where(graph.nodes["mask"][:, None], jnp.stack(energies, axis=-1), 0), layers.embedded

    @nn.compact
    def _layers(self, vectors: jax.Array, graph: jraph.GraphsTuple, energies_alone: bool = True) -> Layers:
        """Features and energies of every layer; with `energies_alone`, the last layer makes no features where that is faster."""
        config = self.config
        # Traced under this precision, products and their derivatives keep it: the default is TF32 on recent GPUs and bfloat16 on TPUs.
        precision = self.matmul_precision if vectors.dtype == jnp.float32 else "highest"
        with jax.default_matmul_precision(precision):
            species, heads = make_species(graph, vectors.dtype), make_heads(graph, len(config.heads), vectors.dtype)
            h, embedded = self._embed(graph, species, heads, vectors.dtype)
            layout = make_layout(graph)
            edges = layout.slots_by_class(make_edges(vectors, graph, config))
            species, heads = Species(species.table, layout.enter(species.member)), layout.enter(heads)
            h = h if h.of_elements else Features(layout.enter(h.values), of_elements=False)
            features: list[jax.Array] = []
            energies: list[jax.Array] = []
            last = config.num_interactions - 1
            for t in range(config.num_interactions):
                layer = self._layer(t)
                sent = layer.interaction.send(h)
                if 0 < t == last and energies_alone and not self.is_initializing():
                    gathered = Gathered(sent.values, layout.senders, layout.reverse)
                    parts = inputs_of(layout, (None,) * len(edges), edges, h, species, heads)
                    energies.append(layout.leave(map_layer(layer, gathered, parts, self._num_blocks(t, layout, vectors.dtype))))
                    continue
                shared = factorises(sent, species)
                neighbors = (sent,) * len(edges) if shared else gather_classes(of_atoms(sent, species), *layout[1:3])
                values, energy = layer(inputs_of(layout, neighbors, edges, h, species, heads))
                energies += [] if energy is None else [layout.leave(energy)]
                features.append(layout.leave(values))
                h = Features(values, of_elements=False)
            return Layers(features, energies, embedded)

    def _embed(self, graph: jraph.GraphsTuple, species: Species, heads: jax.Array, dtype: jnp.dtype) -> tuple[Features, jax.Array | None]:
        """The first features, and the energy that the embedding readout gives them."""
        config, channels = self.config, num_channels(self.config)
        h = Features(NodeEmbedding(len(config.elements), channels, name="node_embedding")(dtype), of_elements=True)
        if not config.joint_embedding:
            return h, None
        joint = JointEmbedding(config.joint_embedding, channels, name="joint_embedding")(graph, dtype)
        h = Features(of_atoms(h, species) + joint[:, None], of_elements=False)
        if not config.embedding_readout:
            return h, None
        return h, LinearReadout(len(config.heads), name="embedding_readout")(h.values, heads)

    def _num_blocks(self, t: int, layout: Layout, dtype: jnp.dtype) -> int:
        """Of how many blocks of atoms a layer is made where they bound its temporaries."""
        options, atoms = self._options(t), sum(count for count, _ in layout.shapes)
        slots = sum(count * width for count, width in layout.shapes)
        size = block_size(bytes_per_atom(-(-slots // max(atoms, 1)), options.sent_channels, options.paths, dtype), atoms)
        return num_blocks(size, layout.shapes)

    def _layer(self, t: int) -> Layer:
        config, options = self.config, self._options(t)
        irreps_out, own = layer_irreps(config)[t], self.interaction if t else self.interaction_first
        irreps_in = layer_irreps(config)[t - 1] if t else f"{options.channels}x0e"
        block = own or INTERACTIONS[block_names(config)[t]]
        product = ProductBasis(
            irreps_out,
            options.num_elements,
            options.channels,
            options.message,
            correlations(config)[t],
            config.contraction_basis,
            config.agnostic_product,
            name=f"product_{t}",
        )
        readout = self._readout(t) if has_readout(config, t) else None
        return Layer(block(irreps_in, irreps_out, options, name=f"interaction_{t}"), product, readout)

    def _readout(self, t: int) -> nn.Module:
        config, heads = self.config, len(self.config.heads)
        if 0 < t == config.num_interactions - 1:
            return READOUTS[config.readout](config.readout_irreps, config.gate, heads, name=f"readout_{t}")
        return LinearReadout(heads, name=f"readout_{t}")

    def _options(self, t: int) -> Options:
        config, table = self.config, self.config.radial_table
        return Options(
            num_elements=len(config.elements),
            channels=num_channels(config),
            harmonics=harmonics(config),
            message=message_irreps(config, t),
            sent=sent_irreps(config, t),
            zeros=silent_channels(config, t),
            radial_mlp=config.radial_mlp,
            radial_table=None if table is None else (table.intervals, table.functions[t]),
            avg_num_neighbors=config.avg_num_neighbors,
        )


class ScaleShiftMACE(MACE):
    """MACE whose summed readouts are scaled and shifted: atom energy = scale * sum of readouts + shift, each head with its own."""

    def _scaled(self, energies: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        config = self.config
        if len(config.heads) == 1:
            return config.scales[0] * energies + config.shifts[0]
        heads = make_heads(graph, len(config.heads), energies.dtype)
        exact = jax.lax.Precision.HIGHEST
        scale, shift = (jnp.matmul(heads, jnp.asarray(x, energies.dtype), precision=exact) for x in (config.scales, config.shifts))
        return scale * energies + shift
