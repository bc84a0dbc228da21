"""Constant pressure by stochastic cell rescaling, of the volume alone or of the whole cell."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from macejax.simulate.integrators import Middle, Settings, State


@functools.cache  # one function for equal arguments, so that programs that are equal are compiled once
def cell_rescaling(thermostat: Middle, *, free_shape: bool) -> Middle:
    """A thermostat and a barostat of first order.

    Volume alone (Bernetti and Bussi, J. Chem. Phys. 153, 114107, 2020), with e = ln V:
      de = (b / tau) (P_int - P0) dt + sqrt(2 kT b / (V tau)) dW.
    Whole cell (Del Tatto, Raiteri, Bernetti and Bussi, Appl. Sci. 12, 1139, 2022), with h the lattice vectors as columns:
      dh = (b / 3 tau) (P_int - P0 + kT / V) h dt + sqrt(2 kT b / (3 V tau)) dW h.
    Here h is multiplied by an exponential, whose second order takes the term kT / V away, and by the symmetric part of its argument: what
    is left is a rotation, which changes nothing. Positions move with the cell, momenta against it, so that volume in phase space is kept.

    The symbols: b / tau is `settings.mobility`, P0 `settings.pressure`, P_int the kinetic tensor of now less the strain derivative of the
    last evaluation, over V.
    """

    def middle(state: State, settings: Settings, key: jax.Array) -> State:
        heat, noise = jax.random.split(key)
        state = thermostat(state, settings, heat)
        volume = jnp.abs(jnp.linalg.det(state.cell))
        kinetic = jnp.einsum("ia,ib->ab", state.momenta / settings.masses, state.momenta)
        excess = (kinetic - state.found.strain_derivative) / volume - settings.pressure * jnp.eye(3, dtype=state.cell.dtype)
        diffusion = 2 * settings.thermal_energy * settings.mobility * settings.timestep / volume
        if free_shape:
            random = jax.random.normal(noise, (3, 3), state.cell.dtype)
            strain = settings.mobility * settings.timestep / 3 * excess + jnp.sqrt(diffusion / 3) * (random + random.T) / 2
        else:
            random = jax.random.normal(noise, (), state.cell.dtype)
            swelling = settings.mobility * settings.timestep * jnp.trace(excess) / 3 + jnp.sqrt(diffusion) * random
            strain = swelling / 3 * jnp.eye(3, dtype=state.cell.dtype)
        stretch, back = _exponentials(strain)
        return state._replace(positions=state.positions @ stretch, momenta=state.momenta @ back, cell=state.cell @ stretch)

    return middle


def _exponentials(strain: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(strain) and its inverse, of a symmetric matrix [3, 3]."""
    values, vectors = jnp.linalg.eigh(strain)
    return (vectors * jnp.exp(values)) @ vectors.T, (vectors * jnp.exp(-values)) @ vectors.T
