"""Lattice constants, bulk moduli and barriers as functions of the parameters of a potential."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jraph

from macejax.differentiate.implicit import Energy, LinearSolve, dense, stationary_point
from macejax.potential import SiteEnergy, deform, energy, place, voigt_strain


def free_positions(site_energy: SiteEnergy, graph: jraph.GraphsTuple, free: jax.Array | None = None) -> Energy:
    """The energy (eV) of one structure as a function `(params, displacements [N, 3] (Angstrom))` from where its atoms are.

    Args:
      site_energy: as for `macejax.potential.predict`.
      graph: batch of one structure.
      free: [N] bool, atoms that may move; all where it is not given. The others stay, whatever their displacement says.
    """

    def of(params: Any, displacements: jax.Array) -> jax.Array:
        moves = displacements if free is None else jnp.where(free[:, None], displacements, 0)
        return jnp.sum(energy(site_energy, params, place(graph, graph.nodes["positions"] + moves)))

    return of


def free_cell(site_energy: SiteEnergy, graph: jraph.GraphsTuple, pressure: float = 0.0) -> Energy:
    """The enthalpy (eV) of one crystal as a function `(params, {"strain": [6], "displacements": [N, 3]})`.

    The strain is in Voigt order xx, yy, zz, yz, xz, xy, as `voigt_strain` takes it. Positions become (x + displacement) (1 + strain).

    Args:
      site_energy: as for `macejax.potential.predict`.
      graph: batch of one crystal whose edges reach as far as the strain will take it.
      pressure: eV/Angstrom^3.
    """

    def of(params: Any, x: dict[str, jax.Array]) -> jax.Array:
        moved = place(graph, graph.nodes["positions"] + x["displacements"])
        moved = deform(moved, voigt_strain(x["strain"]))
        return jnp.sum(energy(site_energy, params, moved)) + pressure * moved.globals["volume"][0]

    return of


def free_scale(site_energy: SiteEnergy, graph: jraph.GraphsTuple) -> Energy:
    """The energy (eV) of one crystal as a function `(params, s)`, every length being 1 + s times what it is in the batch."""

    def of(params: Any, s: jax.Array) -> jax.Array:
        return jnp.sum(energy(site_energy, params, deform(graph, s * jnp.eye(3, dtype=graph.nodes["positions"].dtype))))

    return of


def equilibrium_scale(
    site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, near: float | jax.Array = 0.0, **options: Any
) -> tuple[jax.Array, jax.Array]:
    """1 + s at which the crystal has no pressure, its atoms in place, and the slope that is left (eV); differentiable by `params`.

    The lattice constant is that of the batch times this. Right for crystals whose atoms sit where symmetry holds them (fcc, diamond, rock
    salt); for others take `stationary_point` of `free_cell`.
    """
    dtype = graph.nodes["positions"].dtype
    s, residual = stationary_point(free_scale(site_energy, graph), params, jnp.asarray(near, dtype), **options)
    return 1 + s, residual


def bulk_modulus(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, scale: float | jax.Array = 1.0) -> jax.Array:
    """B = V d2E/dV2 (eV/Angstrom^3) at no pressure, all lengths being `scale` times those of the batch; differentiable by both.

    With V = V0 (1 + s)^3 and dE/ds = 0, B = d2E/ds2 / (9 V0 (1 + s)).
    """
    of = free_scale(site_energy, graph)
    curvature = jax.grad(jax.grad(lambda s: of(params, s)))(jnp.asarray(scale, graph.nodes["positions"].dtype) - 1)
    return curvature / (9 * graph.globals["volume"][0] * scale)


def barrier(
    site_energy: SiteEnergy,
    params: Any,
    minimum: jraph.GraphsTuple,
    saddle: jraph.GraphsTuple,
    *,
    free: jax.Array | None = None,
    linear_solve: LinearSolve | None = None,
    newton_steps: int = 8,
) -> tuple[jax.Array, jax.Array]:
    """E(saddle) - E(minimum) (eV), both made stationary, and the largest force that is left; differentiable to any order.

    Args:
      site_energy, params: as for `macejax.potential.predict`.
      minimum, saddle: batches of one structure near the points, as from `relax` and a nudged elastic band.
      free: [N] bool, atoms that may move; all where it is not given.
      linear_solve: see `stationary_point`; one that can do saddle points, `dense()` where it is not given.
      newton_steps: how many.
    """
    solve = dense() if linear_solve is None else linear_solve
    energies, residuals = [], []
    for graph in (minimum, saddle):
        of = free_positions(site_energy, graph, free)
        x, residual = stationary_point(of, params, jnp.zeros_like(graph.nodes["positions"]), newton_steps=newton_steps, linear_solve=solve)
        energies.append(of(params, x))
        residuals.append(residual)
    return energies[1] - energies[0], jnp.max(jnp.stack(residuals))
