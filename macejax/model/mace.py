"""MACE: batch -> site energies (Batatia et al., NeurIPS 2022)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import linen as nn

from macejax.config import ModelConfig
from macejax.data.species import covalent_radii
from macejax.model.coupling import convolution_paths
from macejax.model.embedding import NodeEmbedding
from macejax.model.geometry import rows, safe_norm, spherical_harmonics
from macejax.model.interaction import (
    Features,
    Options,
    RealAgnostic,
    RealAgnosticDensity,
    RealAgnosticDensityResidual,
    RealAgnosticResidual,
    factorises,
)
from macejax.model.linear import Species, degrees, of_present
from macejax.model.product import ProductBasis
from macejax.model.radial import TRANSFORMS, bessel, polynomial_cutoff
from macejax.model.readout import LinearReadout, NonLinearReadout
from macejax.model.repulsion import zbl
from macejax.ops.blocks import Gathered, block_size, map_energies
from macejax.ops.convolution import Edges, bytes_per_atom
from macejax.ops.gather import gather_neighbors

Block = Callable[..., nn.Module]

# Every interaction block by name: a new variant is one file and one line here, and the conformance tests run over it.
INTERACTIONS: dict[str, Block] = {
    block.__name__: block for block in (RealAgnostic, RealAgnosticResidual, RealAgnosticDensity, RealAgnosticDensityResidual)
}


class Layer(NamedTuple):
    """The modules of a layer."""

    interaction: nn.Module
    product: nn.Module
    readout: nn.Module

    def __call__(self, neighbors: Any, h: Features, edges: Edges, species: Species) -> tuple[jax.Array, jax.Array]:
        """Features [N, D, K] and energies [N]."""
        values = self.product(*self.interaction(neighbors, h, edges, species), species)
        return values, self.readout(values)


class Model(NamedTuple):
    """A potential: what it is, and its parameters."""

    config: ModelConfig
    params: dict[str, Any]


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
        return jnp.sum(self.contributions(vectors, graph), axis=-1)

    def contributions(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        """What each layer adds to every atom's energy, [N, layers] (eV); before them, where the model has it, the repulsion of nuclei."""
        _, energies = self._layers(vectors, graph)
        if self.config.pair_repulsion:
            energies = [_repulsion(vectors, graph, self.config), *energies]
        return jnp.where(graph.nodes["mask"][:, None], jnp.stack(energies, axis=-1), 0)

    def features(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> list[jax.Array]:
        """Node features of every layer, [N, D, K], irreps in ascending degree (`layer_irreps`)."""
        return self._layers(vectors, graph, energies_alone=False)[0]

    @nn.compact
    def _layers(self, vectors: jax.Array, graph: jraph.GraphsTuple, energies_alone: bool = True) -> tuple[list[jax.Array], list[jax.Array]]:
        """Features and energies of every layer; with `energies_alone`, the last layer makes no features where that is faster."""
        config = self.config
        # Traced under this precision, products and their derivatives keep it: the default is TF32 on recent GPUs and bfloat16 on TPUs.
        precision = self.matmul_precision if vectors.dtype == jnp.float32 else "highest"
        with jax.default_matmul_precision(precision):
            edges, species = _edges(vectors, graph, config), _species(graph, vectors.dtype)
            senders, reverse = rows(graph.senders, graph), graph.edges["reverse"]
            irreps = layer_irreps(config)
            channels, num_elements = e3nn.Irreps(config.hidden_irreps)[0].mul, len(config.elements)
            options = Options(num_elements, channels, config.l_max, config.radial_mlp, config.avg_num_neighbors)
            embedding = NodeEmbedding(num_elements, channels, name="node_embedding")(vectors.dtype)
            h, irreps_in = Features(embedding, of_elements=True), f"{channels}x0e"
            features, energies = [], []
            for t, irreps_out in enumerate(irreps):
                correlation = config.correlation if isinstance(config.correlation, int) else config.correlation[t]
                product = ProductBasis(
                    irreps_out, num_elements, channels, config.l_max, correlation, config.contraction_basis, name=f"product_{t}"
                )
                layer = Layer(self._block(t)(irreps_in, irreps_out, options, name=f"interaction_{t}"), product, self._readout(t))
                sent = layer.interaction.send(h)
                if t > 0 and t == len(irreps) - 1 and energies_alone and not self.is_initializing():
                    paths = convolution_paths(irreps_in, config.l_max)
                    size = block_size(bytes_per_atom(senders.shape[1], channels, paths, vectors.dtype), len(senders))
                    energies.append(_map_layer(layer, Gathered(sent.values, senders, reverse), h, edges, species, size))
                else:
                    neighbors: jax.Array | Features = sent
                    if not factorises(sent, species):
                        values = sent.values
                        if h.of_elements:
                            values = jnp.einsum("ns,smk->nmk", species.member, of_present(values, species))
                        neighbors = gather_neighbors(values, senders, reverse)
                    values, energy = layer(neighbors, h, edges, species)
                    energies.append(energy)
                    features.append(values)
                    h, irreps_in = Features(values, of_elements=False), irreps_out
            return features, energies

    def _block(self, layer: int) -> Block:
        if layer == 0:
            return self.interaction_first or INTERACTIONS[self.config.interaction_first]
        return self.interaction or INTERACTIONS[self.config.interaction]

    def _readout(self, layer: int) -> nn.Module:
        last = layer == self.config.num_interactions - 1
        if last and layer > 0:
            return NonLinearReadout(self.config.readout_irreps, self.config.gate, name=f"readout_{layer}")
        return LinearReadout(name=f"readout_{layer}")


class ScaleShiftMACE(MACE):
    """MACE whose summed readouts are scaled and shifted: atom energy = scale * sum of readouts + shift."""

    def __call__(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        """As `MACE.__call__`."""
        energies = self.config.scale * jnp.sum(self.contributions(vectors, graph), axis=-1) + self.config.shift
        return jnp.where(graph.nodes["mask"], energies, 0)


def build(
    config: ModelConfig, *, interaction_first: Block | None = None, interaction: Block | None = None, matmul_precision: str = "highest"
) -> MACE:
    """The Flax module of a configuration; `apply(params, vectors, graph)` gives site energies.

    Args:
      config: what to build.
      interaction_first, interaction: own blocks, used instead of the named ones (signature: `macejax.model.interaction`).
      matmul_precision: of matrix products in float32, a name that `jax.default_matmul_precision` knows: "highest" is float32 throughout;
        "TF32_TF32_F32_X3" and "TF32_TF32_F32" run on the matrix units of NVIDIA GPUs, the first with nearly the same result (errors:
        experiments/bench/README.md). jax refuses those that the device lacks.

    Raises:
      ValueError: a block name that is not known, or irreps that this model cannot have.
    """
    for name, own in ((config.interaction_first, interaction_first), (config.interaction, interaction)):
        if own is None and name not in INTERACTIONS:
            raise ValueError(f"no interaction block is called {name!r}: choose from {', '.join(INTERACTIONS)}.")
    _check_irreps(config)
    with jax.default_matmul_precision(matmul_precision):  # ValueError where there is none of that name
        pass
    kind = ScaleShiftMACE if config.model == "ScaleShiftMACE" else MACE
    return kind(config, interaction_first, interaction, matmul_precision)


def init_model(config: ModelConfig, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Model:
    """A model with random parameters, from the distributions of mace-torch, which `build(config).init` draws from too.

    Here one draw serves all parameters: one per parameter takes ten seconds to compile.
    """
    shapes, tree = jax.tree.flatten_with_path(parameter_shapes(config))
    sizes = [leaf.size for _, leaf in shapes]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),), dtype), np.cumsum(sizes)[:-1])
    # All are standard normal, but for the product basis, whose weights are divided by the number of paths.
    divisors = [leaf.shape[1] if any(getattr(step, "key", None) == "contraction" for step in path) else 1 for path, leaf in shapes]
    leaves = [part.reshape(leaf.shape) / divisor for part, (_, leaf), divisor in zip(parts, shapes, divisors, strict=True)]
    return Model(config, jax.tree.unflatten(tree, leaves))


def layer_irreps(config: ModelConfig) -> list[str]:
    """Irreps of the features that each layer makes: hidden irreps, and scalars alone in the last."""
    scalars = f"{e3nn.Irreps(config.hidden_irreps)[0].mul}x0e"
    return [config.hidden_irreps] * (config.num_interactions - 1) + [scalars]


def parameter_shapes(config: ModelConfig) -> Any:
    """Tree of the parameters as jax.ShapeDtypeStruct, without computing any."""
    return jax.eval_shape(build(config).init, jax.random.key(0), jnp.zeros((1, 4, 3), jnp.float32), _example_graph(np.dtype(np.float32)))


def count_parameters(config: ModelConfig) -> int:
    """Number of trainable numbers, without computing any."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(config)))


def _edges(vectors: jax.Array, graph: jraph.GraphsTuple, config: ModelConfig) -> Edges:
    mask = rows(graph.edges["mask"], graph)
    # Beyond the cutoff, where radial functions vanish with their derivatives; the harmonics are masked too, for blocks whose radial part
    # does not.
    harmless = jnp.asarray([0.0, 0.0, 2 * config.cutoff], vectors.dtype)
    vectors = jnp.where(mask[..., None], -vectors, harmless)  # MACE's vectors point from sender to receiver
    lengths = safe_norm(vectors)
    distances = lengths
    if config.distance_transform != "none":
        distances = TRANSFORMS[config.distance_transform](lengths, sum(_of_pairs(covalent_radii(config.elements), graph, vectors.dtype)))
    harmonics = jnp.where(mask[..., None], spherical_harmonics(vectors, lengths, config.l_max), 0)
    cutoff = polynomial_cutoff(lengths, config.cutoff, config.cutoff_power)
    radial = bessel(distances, config.num_bessel, config.cutoff) * cutoff[..., None]
    return Edges(harmonics, radial, graph.nodes["slot"][rows(graph.senders, graph)])


def _repulsion(vectors: jax.Array, graph: jraph.GraphsTuple, config: ModelConfig) -> jax.Array:
    """ZBL energy of every atom [N]."""
    radii = sum(_of_pairs(covalent_radii(config.elements), graph, vectors.dtype))
    numbers = _of_pairs(np.array(config.elements, np.float64), graph, vectors.dtype)
    pairs = zbl(safe_norm(vectors), *numbers, radii, config.cutoff_power)
    return jnp.sum(jnp.where(rows(graph.edges["mask"], graph), pairs, 0), axis=1)


def _of_pairs(values: np.ndarray, graph: jraph.GraphsTuple, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Values [Z] of the elements of receiver [N, 1] and sender [N, M] of every slot."""
    of_atoms = jnp.asarray(values, dtype)[graph.nodes["species"]]
    return of_atoms[:, None], of_atoms[rows(graph.senders, graph)]


def _map_layer(layer: Layer, neighbors: Gathered, h: Features, edges: Edges, species: Species, size: int) -> jax.Array:
    """Energies of a layer, block by block."""
    params = [module.variables["params"] for module in layer]
    unbound = [module.clone(parent=None) for module in layer]

    def energies(params: tuple[Any, jax.Array], neighbors: jax.Array, arrays: tuple[Any, ...]) -> jax.Array:
        (weights, table), (values, edges, member) = params, arrays
        interaction, product, readout = (functools.partial(m.apply, {"params": w}) for m, w in zip(unbound, weights, strict=True))
        species = Species(table, member)
        return Layer(interaction, product, readout)(neighbors, Features(values, of_elements=False), edges, species)[1]

    return map_energies(energies, (params, species.table), neighbors, (h.values, edges, species.member), size)


def _species(graph: jraph.GraphsTuple, dtype: jnp.dtype) -> Species:
    table = graph.globals["species_table"]
    return Species(table, (graph.nodes["slot"][:, None] == jnp.arange(table.shape[0], dtype=jnp.int32)).astype(dtype))


def _check_irreps(config: ModelConfig) -> None:
    hidden = e3nn.Irreps(config.hidden_irreps)
    names = [name for name, _ in degrees(config.hidden_irreps)]
    if len({mul for mul, _ in hidden}) != 1 or len(set(names)) != len(names):
        raise ValueError(f"hidden_irreps {config.hidden_irreps!r} must have every irrep once, all with the same number of channels.")
    if any(ir.p != (-1) ** ir.l for _, ir in hidden) or "0e" not in names:
        raise ValueError(f"hidden_irreps {config.hidden_irreps!r} must have natural parity (0e, 1o, 2e, ...) and contain 0e.")
    if max(ir.l for _, ir in hidden) > config.l_max:
        raise ValueError(f"hidden_irreps {config.hidden_irreps!r} reach beyond l_max {config.l_max}: raise l_max or lower the irreps.")
    readout = e3nn.Irreps(config.readout_irreps)
    if readout.count("0e") != readout.dim or readout.dim == 0:
        raise ValueError(f"readout_irreps {config.readout_irreps!r} must be scalars, such as 16x0e.")


def _example_graph(dtype: np.dtype) -> jraph.GraphsTuple:
    """The smallest batch: one atom without neighbours. Parameter shapes do not depend on it."""
    return jraph.GraphsTuple(
        nodes={"species": np.zeros(1, np.int32), "slot": np.zeros(1, np.int32), "graph": np.zeros(1, np.int32), "mask": np.ones(1, bool)},
        edges={"shift": np.zeros((4, 3), np.int32), "mask": np.zeros(4, bool), "reverse": np.arange(4, dtype=np.int32)},
        senders=np.zeros(4, np.int32),
        receivers=np.zeros(4, np.int32),
        globals={"species_table": np.zeros(1, np.int32), "cell": np.eye(3, dtype=dtype)[None]},
        n_node=np.ones(1, np.int32),
        n_edge=np.full(1, 4, np.int32),
    )
