"""The elastic tensor, ions clamped and relaxed, from second derivatives of the energy by strain."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from ase import units

from macejax.potential import SiteEnergy, deform, energy, hessian, place, voigt_strain

GPA = 1 / units.GPa  # of 1 eV/Angstrom^3
HIGHEST = jax.lax.Precision.HIGHEST


class Elastic(NamedTuple):
    """Elastic constants in Voigt order xx, yy, zz, yz, xz, xy."""

    clamped: jax.Array  # [6, 6] eV/Angstrom^3: atoms follow the strain
    relaxed: jax.Array  # [6, 6] eV/Angstrom^3: atoms settle within the strained cell
    stress: jax.Array  # [6] eV/Angstrom^3; where it does not vanish, the tensors are those of no crystal at rest
    softest: jax.Array  # [] eV/Angstrom^2, lowest eigenvalue of the Hessian, shifts apart; not above 0: the crystal is unstable


class Moduli(NamedTuple):
    """Of a polycrystal without texture, Hill's means (Hill, Proc. Phys. Soc. A 65, 349 (1952)); in the unit of the tensor."""

    bulk: jax.Array
    shear: jax.Array
    young: jax.Array
    poisson: jax.Array  # a ratio
    bulk_bounds: tuple[jax.Array, jax.Array]  # Reuss, Voigt
    shear_bounds: tuple[jax.Array, jax.Array]  # Reuss, Voigt


def elastic_tensor(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, *, chunk: int = 32) -> Elastic:
    """C_ij = (1 / V) d2E / de_i de_j of one crystal, differentiable by the parameters.

    With atoms that settle, C = C_clamped - L^T H^-1 L / V, L = d2E / du de, H = d2E / du du (Wu, Vanderbilt and Hamann, Phys. Rev. B 72,
    035105 (2005)). Relax the cell first: with a stress left, other definitions of strain give other numbers.

    Args:
      site_energy, params: as for `macejax.potential.predict`.
      graph: batch of one relaxed crystal.
      chunk: columns of the Hessian evaluated together.
    """
    positions, real = graph.nodes["positions"], graph.nodes["mask"]
    volume = graph.globals["volume"][0]
    zero = jnp.zeros(6, positions.dtype)

    def of(displacements: jax.Array, strain: jax.Array) -> jax.Array:
        return energy(site_energy, params, deform(place(graph, positions + displacements), voigt_strain(strain)))[0]

    def slope(strain: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.grad(of, argnums=(0, 1))(jnp.zeros_like(positions), strain)

    stress = slope(zero)[1] / volume
    coupling, second = jax.jacfwd(slope)(zero)  # [N, 3, 6], [6, 6]
    clamped = (second + second.T) / (2 * volume)
    number = 3 * positions.shape[0]
    matrix = hessian(site_energy, params, graph, chunk=chunk).reshape(number, number)
    response, softest = _respond((matrix + matrix.T) / 2, coupling.reshape(number, 6), real)
    relaxation = jnp.matmul(coupling.reshape(number, 6).T, response, precision=HIGHEST) / volume
    return Elastic(clamped, clamped - (relaxation + relaxation.T) / 2, stress, softest)


def moduli(tensor: jax.Array) -> Moduli:
    """Bulk and shear modulus by Voigt, Reuss and Hill from [6, 6] elastic constants."""
    compliance = jnp.linalg.inv(tensor)

    def sums(m: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return m[0, 0] + m[1, 1] + m[2, 2], m[0, 1] + m[0, 2] + m[1, 2], m[3, 3] + m[4, 4] + m[5, 5]

    diagonal, off, shears = sums(tensor)
    bulk_voigt, shear_voigt = (diagonal + 2 * off) / 9, (diagonal - off + 3 * shears) / 15
    diagonal, off, shears = sums(compliance)
    bulk_reuss, shear_reuss = 1 / (diagonal + 2 * off), 15 / (4 * diagonal - 4 * off + 3 * shears)
    bulk, shear = (bulk_voigt + bulk_reuss) / 2, (shear_voigt + shear_reuss) / 2
    young, poisson = 9 * bulk * shear / (3 * bulk + shear), (3 * bulk - 2 * shear) / (2 * (3 * bulk + shear))
    return Moduli(bulk, shear, young, poisson, (bulk_reuss, bulk_voigt), (shear_reuss, shear_voigt))


def _respond(matrix: jax.Array, forces: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """H^-1 L [3 N, 6] without the three shifts of the whole, and the lowest eigenvalue of H apart from theirs.

    Padding has no part in H or L: there, and in the shifts, H is given the value of its largest diagonal entry, which changes nothing else.
    """
    moving = jnp.repeat(real, 3)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(jnp.diagonal(matrix))))
    filled = jnp.where(largest > 0, largest, 1)
    shifts = jnp.where(moving[:, None], jnp.tile(jnp.eye(3, dtype=matrix.dtype), (real.shape[0], 1)), 0) / jnp.sqrt(jnp.sum(real))
    definite = matrix + filled * (jnp.matmul(shifts, shifts.T, precision=HIGHEST) + jnp.diag(jnp.where(moving, 0, 1).astype(matrix.dtype)))
    softest = jnp.min(jnp.linalg.eigvalsh(jax.lax.stop_gradient(definite)))
    return jnp.linalg.solve(definite, forces), softest
