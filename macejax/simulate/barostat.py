"""Constant pressure by stochastic cell rescaling, of the volume alone or of the whole cell."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from macejax.simulate.integrators import Middle, Settings, State
from macejax.simulate.matrices import exponential, volumes
from macejax.simulate.splitting import cell_strain


@functools.cache  # one function for equal arguments, so that programs that are equal are compiled once
def cell_rescaling(thermostat: Middle, *, free_shape: bool) -> Middle:
    """A thermostat and a barostat of first order: `splitting.cell_strain`, with the kinetic tensor of now and the strain derivative of the
    last evaluation.
    """

    def middle(state: State, settings: Settings, key: jax.Array) -> State:
        heat, noise = jax.random.split(key)
        state = thermostat(state, settings, heat)
        volume = volumes(state.cell)
        kinetic = jnp.einsum("ia,ib->ab", state.momenta / settings.masses, state.momenta)
        excess = (kinetic - state.found.strain_derivative) / volume - settings.pressure * jnp.eye(3, dtype=state.cell.dtype)
        random = jax.random.normal(noise, (3, 3) if free_shape else (), state.cell.dtype)
        numbers = settings.thermal_energy, settings.mobility, settings.timestep
        strain = cell_strain(excess, volume, *numbers, random, free_shape=free_shape)
        stretch, back = exponential(strain), exponential(-strain)
        return state._replace(positions=state.positions @ stretch, momenta=state.momenta @ back, cell=state.cell @ stretch)

    return middle
