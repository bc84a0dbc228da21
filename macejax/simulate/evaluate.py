"""Everything that a simulation asks of a batch, from one backward pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors
from macejax.ops.gather import reverse_edges
from macejax.potential import SiteEnergy, assemble, edge_gradient


class Evaluation(NamedTuple):
    """Per-atom and per-structure results of a batch."""

    node_energy: jax.Array  # [N] eV, without E0s
    forces: jax.Array  # [N, 3] eV/Angstrom
    virials: jax.Array  # [N, 3, 3] eV; the sum over a structure is -dE/d(strain)
    stress: jax.Array  # [G, 3, 3] eV/Angstrom^3; NaN where the cell is singular


def evaluate(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple) -> Evaluation:
    """Energies, forces, per-atom virials and stress.

    An edge's virial -r (x) dE/dr belongs half to its receiver and half to its sender, as in mace-torch, and is symmetrised.
    """
    node_energy, gradient = edge_gradient(site_energy, params, graph)
    prediction = assemble(node_energy, gradient, graph)
    edge = -edge_vectors(graph)[..., :, None] * gradient[..., None, :]  # [N, M, 3, 3]
    flat = edge.reshape(edge.shape[:2] + (9,))
    shared = jnp.sum(flat + reverse_edges(flat, graph.edges["reverse"]), axis=1).reshape(-1, 3, 3) / 2
    return Evaluation(node_energy, prediction.forces, (shared + jnp.swapaxes(shared, -1, -2)) / 2, prediction.stress)
