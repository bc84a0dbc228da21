"""What a relaxation moves: atoms, and with them the logarithm of the deformation of the cell, as in ASE's FrechetCellFilter.

With row vectors, a system that was at (u, cell_0) is at x = u F^T, cell = cell_0 F^T, and F = exp(c / n) for n atoms. Its forces are f F
on u and, on c, 1 / n times the derivative of the exponential, applied to W F^-T; W = -dE/d(strain) - P V. Both u and c are in Angstrom.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import sum_per_graph
from macejax.simulate.many.fields import Fields, max_per_graph, of_atoms
from macejax.simulate.matrices import exponential, inverse, volumes


class Vector(NamedTuple):
    """A position, force or step of every system of a batch. Where no cell moves, that part is zero."""

    atoms: Any  # [N, 3]
    cell: Any  # [G, 3, 3]

    def plus(self, other: Vector, factor: Any, graph: jraph.GraphsTuple) -> Vector:
        """self + factor * other, the factor [G] being that of each system."""
        return Vector(
            self.atoms + of_atoms(factor, graph)[:, None] * other.atoms, self.cell + jnp.asarray(factor)[:, None, None] * other.cell
        )

    def times(self, factor: Any, graph: jraph.GraphsTuple) -> Vector:
        """factor * self, the factor [G] being that of each system."""
        return Vector(of_atoms(factor, graph)[:, None] * self.atoms, factor[:, None, None] * self.cell)


def dot(a: Vector, b: Vector, graph: jraph.GraphsTuple) -> jax.Array:
    """[G]."""
    return sum_per_graph(jnp.sum(a.atoms * b.atoms, axis=1), graph) + jnp.sum(a.cell * b.cell, axis=(1, 2))


def longest(a: Vector, graph: jraph.GraphsTuple) -> jax.Array:
    """[G], the norm of the longest row: of an atom, or of the cell."""
    atoms = max_per_graph(jnp.sqrt(jnp.sum(a.atoms**2, axis=1)), graph)
    return jnp.maximum(atoms, jnp.max(jnp.sqrt(jnp.sum(a.cell**2, axis=2)), axis=1))


def coordinates(state: Fields) -> Vector:
    """u and c."""
    return Vector(state.nodes["undeformed"], state.globals["log_deformation"])


def place(state: Fields, at: Vector, graph: jraph.GraphsTuple, cells: bool) -> Fields:
    """The state with atoms and cell where the coordinates say. `cells`: whether any cell moves."""
    positions, of_systems = at.atoms, {"log_deformation": at.cell}
    if cells:
        deformation = jnp.swapaxes(exponential(at.cell / _count(graph)), 1, 2)
        moves = state.globals["free_cell"][:, None, None]
        of_systems["cell"] = jnp.where(moves, state.globals["first_cell"] @ deformation, state.globals["cell"])
        positions = jnp.einsum("na,nab->nb", positions, of_atoms(deformation, graph))
    return state.update({"undeformed": at.atoms, "positions": positions}, **of_systems)


def downhill(state: Fields, graph: jraph.GraphsTuple, cells: bool) -> Vector:
    """Forces on the coordinates (eV/Angstrom); zero on what is held."""
    forces = jnp.where(state.nodes["free"], state.nodes["forces"], 0)
    if not cells:
        return Vector(forces, jnp.zeros_like(state.globals["cell"]))
    count = _count(graph)
    volume = volumes(state.globals["cell"])[:, None, None]
    virial = -state.globals["strain_derivative"] - state.globals["pressure"][:, None, None] * volume * jnp.eye(3)
    deformation, pull_back = jax.vjp(exponential, state.globals["log_deformation"] / count)
    of_cell = pull_back(virial @ inverse(jnp.swapaxes(deformation, 1, 2)))[0] / count
    of_cell = jnp.where(state.globals["free_cell"][:, None, None], of_cell, 0)
    return Vector(jnp.einsum("na,nab->nb", forces, of_atoms(deformation, graph)), of_cell)


def excess_stress(state: Fields) -> jax.Array:
    """[G], largest component of stress + pressure (eV/Angstrom^3), 0 where the cell is held."""
    volume = volumes(state.globals["cell"])
    moves = state.globals["free_cell"]
    stress = state.globals["strain_derivative"] / jnp.where(moves, volume, 1)[:, None, None]
    excess = jnp.max(jnp.abs(stress + state.globals["pressure"][:, None, None] * jnp.eye(3)), axis=(1, 2))
    return jnp.where(moves, excess, 0)


def _count(graph: jraph.GraphsTuple) -> jax.Array:
    return jnp.maximum(graph.n_node, 1).astype(float)[:, None, None]
