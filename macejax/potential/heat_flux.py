"""Heat flux of a potential whose atoms' energies reach beyond their neighbours, as those of message passing do.

With e_i the energy of atom i, kinetic part included, the flux is d/dt sum_i r_i e_i of a finite system,

  J = sum_i e_i v_i + sum_ij (r_i - r_j) (dU_i/dr_j . v_j),

and of a periodic one the same with i over the atoms of the cell and j over all space (Langer, Knoop, Carbogno, Scheffler and Rupp, Phys.
Rev. B 108, L100302, 2023; Langer, Frank and Knoop, J. Chem. Phys. 159, 174105, 2023). There is a term (i, j) for every pair that messages
connect, so that edge gradients do not give it. Here all atoms that the cell's energies depend on are unfolded to a cluster; then the sum
over j of the part with r_i is one jvp of site energies, and the part with r_j one gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors
from macejax.potential.predict import SiteEnergy, as_sites

EV = 103.642696563  # amu (Angstrom/fs)^2 in eV


class HeatFlux(NamedTuple):
    """Heat flux of a structure, in eV Angstrom/fs; divided by the volume it is a flux density."""

    potential: jax.Array  # [3], what forces between the atoms carry
    convective: jax.Array  # [3], what the atoms carry themselves

    @property
    def total(self) -> jax.Array:
        """[3], the sum."""
        return self.potential + self.convective


def heat_flux(
    site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, velocities: jax.Array, masses: jax.Array, inside: jax.Array
) -> HeatFlux:
    """Heat flux of one structure.

    Site energies are those of the model, without the energies of isolated atoms. Such constants add a term that is the current of each
    element times a number, and change no thermal conductivity of a solid.

    Args:
      site_energy, params: as for `macejax.potential.predict`.
      graph: batch in row form of one cluster without a cell, as `macejax.data.unfold.unfold` makes it with a reach of all layers.
      velocities: [N, 3] Angstrom/fs; an image has that of its atom.
      masses: [N] amu.
      inside: [N] bool, True for the atoms of the cell (not their images, not padding).
    """
    positions = graph.nodes["positions"]
    velocities = jnp.where(graph.nodes["mask"][:, None], velocities, 0)

    def energies(x: jax.Array) -> jax.Array:
        moved = graph._replace(nodes={**graph.nodes, "positions": x})
        return as_sites(site_energy(params, edge_vectors(moved), moved)).energy

    energy, rate = jax.jvp(energies, (positions,), (velocities,))  # dU_i/dt
    gradient = jax.grad(lambda x: jnp.sum(jnp.where(inside, energies(x), 0)))(positions)
    power = jnp.sum(gradient * velocities, axis=1)  # of atom j on all atoms of the cell
    of_atoms = jnp.where(inside, rate, 0) - power
    kinetic = EV / 2 * masses * jnp.sum(velocities**2, axis=1)
    carried = jnp.where(inside, energy + kinetic, 0)
    return HeatFlux(_sum(of_atoms, positions), _sum(carried, velocities))


def _sum(weights: jax.Array, vectors: jax.Array) -> jax.Array:
    return jnp.sum(weights[:, None] * vectors, axis=0)
