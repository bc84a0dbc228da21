"""Models of dipoles and polarizabilities: mace-torch's AtomicDipolesMACE, EnergyDipolesMACE and AtomicDielectricMACE.

The dipole of a structure is the sum of atomic dipoles, which readouts make of the vectors among the features, and of charge times position.
The charges are those of the input in the first two models, and predicted in AtomicDielectricMACE, where they are shifted so that they sum
to the total charge. Positions are those of the input, neither wrapped nor centred, so that the dipole of a charged structure refers to the
origin of its coordinates, and that of a periodic one to the images in which the atoms were given.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import linen as nn

from macejax.model.architecture import layer_irreps, readout_hidden, readout_outputs
from macejax.model.geometry import sum_per_graph
from macejax.model.linear import IrrepsLinear, irreps_of, split
from macejax.model.mace import MACE
from macejax.model.readout import GATES
from macejax.model.sites import Sites

DEBYE = 1e-11 / 299792458 / 1.602176634e-19  # e Angstrom, from the speed of light and the elementary charge


class MomentsMACE(MACE):
    """Dipoles, and what else `ModelConfig.model` names, as a function of edge vectors.

    The non-linear readout of AtomicDipolesMACE is zero, here as in mace-torch: the last of its layers, where there are several, keeps
    vectors alone, so that the gates of the readout find no scalars. Its dipoles come from the layers before.
    """

    def __call__(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> Sites:
        """Energies and moments of every atom.

        Args:
          vectors: edge vectors [N, M, 3] (Angstrom), `geometry.edge_vectors(graph)`.
          graph: batch in row form; positions are read where they are multiplied by charges.
        """
        total = jnp.sum(jnp.stack(self._outputs(vectors, graph)), axis=0)
        parts, start = {}, 0
        for irrep, count in readout_outputs(self.config):
            size = count * (2 * int(irrep[:-1]) + 1)
            parts[irrep] = total[:, start : start + size]
            start += size
        if self.config.model == "AtomicDielectricMACE":
            charge = _neutralised(parts["0e"][:, 0], graph)
            polarizability = jnp.concatenate([parts["0e"][:, 1:], parts["2e"]], axis=1)
            return Sites(None, charge, parts["1o"], charge[:, None] * input_positions(graph), polarizability)
        charge = jnp.where(graph.nodes["mask"], graph.nodes["charges"], 0)
        energy = parts["0e"][:, 0] if self.config.has_energies else None
        return Sites(energy, charge, parts["1o"], charge[:, None] * input_positions(graph) / DEBYE)

    def contributions(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        """What each readout adds to every atom's energy, [N, readouts] (eV).

        Raises:
          ValueError: the model has no energies.
        """
        if not self.config.has_energies:
            raise ValueError(f"{self.config.model} has no energies.")
        return jnp.stack([output[:, 0] for output in self._outputs(vectors, graph)], axis=-1)

    def _outputs(self, vectors: jax.Array, graph: jraph.GraphsTuple) -> list[jax.Array]:
        """What each readout makes of every atom, [N, components of `readout_outputs`], 0 on padding."""
        outputs = self._layers(vectors, graph, energies_alone=False).energies
        return [jnp.where(graph.nodes["mask"][:, None], output, 0) for output in outputs]

    def _readout(self, t: int) -> nn.Module:
        config, name = self.config, f"readout_{t}"
        irreps, outputs = irreps_of(layer_irreps(config)[t]), readout_outputs(config)
        if 0 < t == config.num_interactions - 1:
            return GatedMoments(irreps, outputs, tuple(readout_hidden(config).items()), config.gate, name=name)
        return LinearMoments(irreps, outputs, name=name)


class LinearMoments(nn.Module):
    """One weight per channel of every irrep (mace-torch's LinearDipoleReadoutBlock and LinearDipolePolarReadoutBlock)."""

    irreps: tuple[str, ...]  # of the features
    outputs: tuple[tuple[str, int], ...]  # irreps and how many of each

    @nn.compact
    def __call__(self, h: jax.Array, heads: jax.Array) -> jax.Array:
        """Features [N, D, K] -> [N, components of the outputs]."""
        del heads
        return _flat(IrrepsLinear(self.outputs, name="linear").blocks(split(h, self.irreps)))


class GatedMoments(nn.Module):
    """One hidden layer: a non-linearity of its scalars, and gates on the others (mace-torch's NonLinearDipoleReadoutBlock and
    NonLinearDipolePolarReadoutBlock). Gates have the non-linearity of the scalars.
    """

    irreps: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    hidden: tuple[tuple[str, int], ...]
    gate: str

    @nn.compact
    def __call__(self, h: jax.Array, heads: jax.Array) -> jax.Array:
        """As `LinearMoments`."""
        del heads
        gated = [(irrep, width) for irrep, width in self.hidden if irrep != "0e"]
        nothing = jnp.zeros((h.shape[0], sum(width * (2 * int(irrep[:-1]) + 1) for irrep, width in self.outputs)), h.dtype)
        if not self.hidden:
            return nothing
        scalars = dict(self.hidden).get("0e", 0)
        first = (("0e", scalars + sum(width for _, width in gated)), *gated)
        blocks = IrrepsLinear(first, name="linear_1").blocks(split(h, self.irreps))
        own, *gates = jnp.split(GATES[self.gate](blocks["0e"]), np.cumsum([scalars, *(width for _, width in gated[:-1])]), axis=-1)
        acted = ({"0e": own} if scalars else {}) | {irrep: blocks[irrep] * g for (irrep, _), g in zip(gated, gates, strict=False)}
        values = _flat(IrrepsLinear(self.outputs, name="linear_2").blocks(acted))
        return values if "0e" in self.irreps else nothing  # zero as it is, and known to the compiler


def input_positions(graph: jraph.GraphsTuple) -> jax.Array:
    """Positions [N, 3] (Angstrom) as they were in the input: those of a batch are wrapped and centred."""
    positions, structure = graph.nodes["positions"], graph.nodes["graph"]
    image, cell = graph.nodes["image"].astype(positions.dtype), graph.globals["cell"][structure]
    moved = jnp.einsum("na,nab->nb", image, cell, precision=jax.lax.Precision.HIGHEST)
    return positions - moved + graph.globals["origin"][structure]


def _neutralised(charge: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Charges [N], all shifted alike so that they sum to the total charge of each structure."""
    excess = sum_per_graph(charge, graph) - graph.globals["total_charge"]
    share = excess / jnp.maximum(graph.n_node, 1).astype(charge.dtype)
    return jnp.where(graph.nodes["mask"], charge - share[graph.nodes["graph"]], 0)


def _flat(blocks: dict[str, jax.Array]) -> jax.Array:
    """Blocks {irrep: [N, 2l+1, K]} one after the other, each as channels times components: e3nn's layout."""
    return jnp.concatenate([jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1) for x in blocks.values()], axis=1)
