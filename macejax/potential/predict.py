"""Energy, forces and stress from one backward pass through a function of edge vectors; dipoles where it makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors, sum_per_graph
from macejax.model.sites import Sites
from macejax.ops.gather import reverse_edges
from macejax.ops.slots import add_slots
from macejax.potential.moments import Moments, assemble_moments

SiteEnergy = Callable[[Any, jax.Array, jraph.GraphsTuple], Any]  # -> energies [N], or Sites


class Prediction(NamedTuple):
    """What a potential says of a batch. Padding atoms and structures hold zeros. Of a model of dipoles alone, all but `moments` is None."""

    energy: jax.Array  # [G] eV, interaction energy: without E0s
    node_energy: jax.Array  # [N] eV
    forces: jax.Array  # [N, 3] eV/Angstrom
    strain_derivative: jax.Array  # [G, 3, 3] eV, dE/d(strain), symmetric; the virial is its negative
    stress: jax.Array  # [G, 3, 3] eV/Angstrom^3; NaN where the cell is singular
    moments: Moments | None = None  # of a model that has them


def predict(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple) -> Prediction:
    """Energy, forces and stress of every structure of a batch, and its moments where the model has them.

    Args:
      site_energy: `(params, vectors [N, M, 3], graph) -> node energies [N]`, or `Sites` of a model of moments; for a Flax module its
        `apply`.
      params: parameters of the potential.
      graph: batch in row form (macejax/README.md).
    """
    return assemble_sites(*sites_and_gradient(site_energy, params, graph), graph)


def edge_gradient(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple) -> tuple[jax.Array, jax.Array]:
    """Node energies [N] (eV) and dE/dr of every edge slot [N, M, 3] (eV/Angstrom), E being the energy of the whole batch.

    Raises:
      ValueError: the model has no energies.
    """
    sites, gradient = sites_and_gradient(site_energy, params, graph)
    energies = energies_of(sites)
    assert gradient is not None
    return energies, gradient


def sites_and_gradient(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple) -> tuple[Sites, jax.Array | None]:
    """What the model says of every atom, and dE/dr as `edge_gradient` gives it: None where there are no energies."""

    def total(vectors: jax.Array) -> tuple[jax.Array, Sites]:
        sites = as_sites(site_energy(params, vectors, graph))
        return jnp.sum(jnp.zeros((), vectors.dtype) if sites.energy is None else sites.energy), sites

    energy, pullback, sites = jax.vjp(total, edge_vectors(graph), has_aux=True)
    return sites, None if sites.energy is None else pullback(jnp.ones_like(energy))[0]


def as_sites(found: Any) -> Sites:
    """`Sites` of what a function says of every atom, which may be energies [N] alone."""
    return found if isinstance(found, Sites) else Sites(energy=found)


def energies_of(found: Any) -> jax.Array:
    """Node energies [N] (eV) of what a function says of every atom.

    Raises:
      ValueError: it has none.
    """
    energy = as_sites(found).energy
    if energy is None:
        raise ValueError("this model predicts dipoles, and has neither energies nor forces.")
    return energy


def assemble_sites(sites: Sites, gradient: jax.Array | None, graph: jraph.GraphsTuple) -> Prediction:
    """Linear map from what a model says of every atom to a Prediction."""
    moments = None if sites.dipole is None else assemble_moments(sites, graph)
    if sites.energy is None or gradient is None:
        return Prediction(None, None, None, None, None, moments)
    return assemble(sites.energy, gradient, graph)._replace(moments=moments)


def assemble(node_energy: jax.Array, gradient: jax.Array, graph: jraph.GraphsTuple) -> Prediction:
    """Linear map from node energies [N] and edge gradients [N, M, 3] to a Prediction.

    With r_im the vector of slot m of receiver i and g = dE/dr, the force on i is sum_m g_im - sum_m g_rev(im), since r = x_sender -
    x_receiver, and dE/d(strain) is the symmetric part of the sum of r (x) g.
    """
    forces = add_slots(gradient - reverse_edges(gradient, graph.edges["reverse"]))
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
    return add_slots(share + reverse_edges(share, graph.edges["reverse"]))
