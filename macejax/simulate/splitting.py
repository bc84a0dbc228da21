"""The sub-steps that every integrator here is made of, as pure functions of arrays: what is one number or one for each atom broadcasts.

Time is in any unit in which energy = mass length^2 / time^2, as in ASE's (Angstrom, eV, u).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def kick(momenta: jax.Array, forces: jax.Array, timestep: jax.Array) -> jax.Array:
    """B, half a step: p + (h / 2) f."""
    return momenta + timestep / 2 * forces


def drift(positions: jax.Array, momenta: jax.Array, masses: jax.Array, timestep: jax.Array) -> jax.Array:
    """A, half a step: x + (h / 2) p / m."""
    return positions + timestep / 2 * momenta / masses


def ornstein_uhlenbeck(
    momenta: jax.Array, masses: jax.Array, thermal_energy: jax.Array, timestep: jax.Array, relaxation_time: jax.Array, noise: jax.Array
) -> jax.Array:
    """O, a whole step, exactly: c p + sqrt((1 - c^2) m kT) xi with c = exp(-h / tau); `noise` xi is normal.

    With half steps of B and A around it this is BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102, 2013).
    """
    kept = jnp.exp(-timestep / relaxation_time)
    return kept * momenta + jnp.sqrt((1 - kept**2) * masses * thermal_energy) * noise


def cell_strain(
    excess: jax.Array,
    volume: jax.Array,
    thermal_energy: jax.Array,
    mobility: jax.Array,
    timestep: jax.Array,
    noise: jax.Array,
    *,
    free_shape: bool,
) -> jax.Array:
    """The strain e [..., 3, 3] of a step of stochastic cell rescaling: x <- x exp(e), cell <- cell exp(e), p <- p exp(-e).

    Volume alone (Bernetti and Bussi, J. Chem. Phys. 153, 114107, 2020), with w = ln V:
      dw = (c / tau) (P - P0) dt + sqrt(2 kT c / (V tau)) dW.
    Whole cell (Del Tatto, Raiteri, Bernetti and Bussi, Appl. Sci. 12, 1139, 2022), with h the lattice vectors as columns:
      dh = (c / 3 tau) (P - P0 + kT / V) h dt + sqrt(2 kT c / (3 V tau)) dW h.
    Here h is multiplied by an exponential, whose second order (Ito) takes the term kT / V away, and by the symmetric part of its argument:
    what is left is a rotation, which changes nothing. Positions move with the cell, momenta against it, so that volume in phase space is
    kept.

    Args:
      excess: P - P0 [..., 3, 3], with P = (sum p p / m - dE/d(strain)) / V.
      volume: V [...].
      mobility: c / tau, of the compressibility c and the relaxation time.
      noise: W, normal, [..., 3, 3] for the whole cell, [...] for the volume alone.
    """
    rate = mobility * timestep / 3
    width = jnp.sqrt(2 * thermal_energy * rate / volume)
    if free_shape:  # (W + W^T) / 2: variance 1 on the diagonal, 1/2 beside it
        return rate[..., None, None] * excess + width[..., None, None] * (noise + jnp.swapaxes(noise, -1, -2)) / 2
    mean = rate * jnp.trace(excess, axis1=-2, axis2=-1) / 3 + width * noise / jnp.sqrt(3)
    return mean[..., None, None] * jnp.eye(3, dtype=excess.dtype)
