"""Energy, forces and stress from one backward pass through a function of edge vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors, sum_per_graph
from macejax.ops.gather import reverse_edges

SiteEnergy = Callable[[Any, jax.Array, jraph.GraphsTuple], jax.Array]


class Prediction(NamedTuple):
    """What a potential says of a batch. Padding atoms and structures hold zeros."""

    energy: jax.Array  # [G] eV, interaction energy: without E0s
    node_energy: jax.Array  # [N] eV
    forces: jax.Array  # [N, 3] eV/Angstrom
    strain_derivative: jax.Array  # [G, 3, 3] eV, dE/d(strain), symmetric; the virial is its negative
    stress: jax.Array  # [G, 3, 3] eV/Angstrom^3; NaN where the cell is singular


def predict(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple) -> Prediction:
    """Energy, forces and stress of every structure of a batch.

    Args:
      site_energy: `(params, vectors [N, M, 3], graph) -> node energies [N]`, for a Flax module its `apply`.
      params: parameters of the potential.
      graph: batch in row form (macejax/README.md).
    """
    node_energy, gradient = edge_gradient(site_energy, params, graph)
    return assemble(node_energy, gradient, graph)


def edge_gradient(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple) -> tuple[jax.Array, jax.Array]:
    """Node energies [N] (eV) and dE/dr of every edge slot [N, M, 3] (eV/Angstrom), E being the energy of the whole batch."""

    def total(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        node_energy = site_energy(params, vectors, graph)
        return jnp.sum(node_energy), node_energy

    gradient, node_energy = jax.grad(total, has_aux=True)(edge_vectors(graph))
    return node_energy, gradient


def assemble(node_energy: jax.Array, gradient: jax.Array, graph: jraph.GraphsTuple) -> Prediction:
    """Linear map from node energies [N] and edge gradients [N, M, 3] to a Prediction.

    With r_im the vector of slot m of receiver i and g = dE/dr, the force on i is sum_m g_im - sum_m g_rev(im), since r = x_sender -
    x_receiver, and dE/d(strain) is the symmetric part of the sum of r (x) g.
    """
    forces = jnp.sum(gradient - reverse_edges(gradient, graph.edges["reverse"]), axis=1)
    per_node = jnp.einsum("nma,nmb->nab", edge_vectors(graph), gradient, precision=jax.lax.Precision.HIGHEST)
    strain_derivative = sum_per_graph((per_node + jnp.swapaxes(per_node, -1, -2)) / 2, graph)
    volume = graph.globals["volume"][:, None, None]
    has_volume = volume > 0
    stress = jnp.where(has_volume, strain_derivative / jnp.where(has_volume, volume, 1), jnp.nan)
    return Prediction(sum_per_graph(node_energy, graph), node_energy, forces, strain_derivative, stress)


def atomic_virials(gradient: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Virial of every atom, [N, 3, 3] (eV), summing to the virial of the structure.

    An edge's share, -(r (x) g), is given half to the receiver and half to the sender, as mace-torch does. Of a message-passing model this
    is one of many ways to share it, and not the one that makes a heat flux (Langer et al. 2023).

    Args:
      gradient: dE/dr [N, M, 3], from `edge_gradient`.
      graph: batch in row form.
    """
    share = -edge_vectors(graph)[..., :, None] * gradient[..., None, :] / 2
    share = (share + jnp.swapaxes(share, -1, -2)) / 2
    return jnp.sum(share + reverse_edges(share, graph.edges["reverse"]), axis=1)
