"""Integrators as pure functions: half a kick, half a drift, what the ensemble does, half a drift, new forces, half a kick.

With nothing in the middle this is velocity Verlet. A thermostat in the middle makes the schemes that sample positions best at long steps:
for Langevin dynamics BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102, 2013), for others the "middle" scheme (Zhang et al.,
J. Phys. Chem. A 123, 6056, 2019).

Own ones, for those of jax-md 0.2.29 keep neither energy nor virial in their state, so that every line of a log would cost one more
evaluation, round the timestep to float32, count the motion of the whole as a degree of freedom, which their start has taken away
(nvt_nose_hoover), draw the two noises of velocity rescaling from one key (temp_csvr), and have no cell that changes its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from macejax.simulate import splitting
from macejax.simulate.row_list import RowList
from macejax.simulate.system import Evaluation

CHAIN = 3  # thermostats of a Nose-Hoover chain
# Suzuki and Yoshida's weights of fourth order, for the steps of a chain.
_OUTER = 1 / (2 - 2 ** (1 / 3))
WEIGHTS = (_OUTER, 1 - 2 * _OUTER, _OUTER)


class State(NamedTuple):
    """A running simulation of N atoms. Time is in Angstrom sqrt(amu/eV), as in ASE, momenta in sqrt(amu eV)."""

    step: jax.Array  # [] int32
    positions: jax.Array  # [N, 3] Angstrom, not wrapped
    momenta: jax.Array  # [N, 3]
    cell: jax.Array  # [3, 3] Angstrom, rows are lattice vectors
    found: Evaluation  # at these positions
    chain: jax.Array  # [2, CHAIN] positions and momenta of a Nose-Hoover chain, zero without one
    key: jax.Array  # of the noise; that of a step is this one with the number of the step folded in


class Settings(NamedTuple):
    """Numbers of an ensemble, in ASE's units; what an ensemble does not use is 0. They are no part of the compilation."""

    timestep: jax.Array
    masses: jax.Array  # [N, 1] amu
    thermal_energy: jax.Array  # kT, eV
    relaxation_time: jax.Array  # of the thermostat
    freedoms: jax.Array  # degrees of freedom that the thermostat moves
    pressure: jax.Array  # eV/Angstrom^3
    free: jax.Array  # [N, 3] bool, False for components that a constraint holds, whose momenta are 0
    mobility: jax.Array  # compressibility over relaxation time of the barostat, Angstrom^3/eV per time


Middle = Callable[[State, Settings, jax.Array], State]
Renew = Callable[[jax.Array, jax.Array, RowList], tuple[Evaluation, RowList]]


def step(state: State, rows: RowList, settings: Settings, middle: Middle, renew: Renew) -> tuple[State, RowList]:
    """One timestep.

    Args:
      middle: what happens between the half drifts, given the state, the settings and a key of its own.
      renew: (positions, cell, list) -> evaluation and the list, renewed where it had to be.
    """
    state = _drift(_kick(state, settings), settings)
    state = middle(state, settings, jax.random.fold_in(state.key, state.step))
    state = _drift(state, settings)
    found, rows = renew(state.positions, state.cell, rows)
    state = _kick(state._replace(found=found), settings)
    return state._replace(step=state.step + 1), rows


def nothing(state: State, settings: Settings, key: jax.Array) -> State:
    """No thermostat."""
    del settings, key
    return state


def langevin(state: State, settings: Settings, key: jax.Array) -> State:
    """The Ornstein-Uhlenbeck process."""
    noise = jax.random.normal(key, state.momenta.shape, state.momenta.dtype)
    numbers = settings.masses, settings.thermal_energy, settings.timestep, settings.relaxation_time
    momenta = splitting.ornstein_uhlenbeck(state.momenta, *numbers, noise)
    return state._replace(momenta=jnp.where(settings.free, momenta, 0))


def velocity_rescaling(state: State, settings: Settings, key: jax.Array) -> State:
    """Canonical sampling through velocity rescaling (Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101, 2007, eq. A7).

    alpha^2 = c + (1 - c) K0 (R1^2 + sum_2^Nf Ri^2) / (Nf K) + 2 R1 sqrt(c (1 - c) K0 / (Nf K)), with K0 = Nf kT / 2; the sum is one draw
    from a chi-squared distribution.
    """
    first, rest = jax.random.split(key)
    dtype = state.momenta.dtype
    one = jax.random.normal(first, (), dtype)
    others = 2 * jax.random.gamma(rest, (settings.freedoms - 1) / 2, (), dtype)
    c = jnp.exp(-settings.timestep / settings.relaxation_time)
    ratio = settings.thermal_energy / (2 * kinetic_energy(state, settings))  # K0 / (Nf K)
    square = c + (1 - c) * ratio * (one**2 + others) + 2 * one * jnp.sqrt(c * (1 - c) * ratio)
    # Alpha may be negative (eq. A8); it then turns all velocities round.
    sign = jnp.where(one + jnp.sqrt(c / ((1 - c) * ratio)) < 0, -1, 1)
    return state._replace(momenta=state.momenta * sign * jnp.sqrt(square))


def nose_hoover(state: State, settings: Settings, key: jax.Array) -> State:
    """A Nose-Hoover chain for a whole timestep (Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117, 1996)."""
    del key
    mass = _chain_masses(settings)
    place, momentum = state.chain
    double, scale = 2 * kinetic_energy(state, settings), jnp.ones_like(state.found.energy)
    for weight in WEIGHTS:
        t = weight * settings.timestep
        momentum = _push_chain(momentum, mass, double, settings, t, range(CHAIN)[::-1])
        factor = jnp.exp(-t * momentum[0] / mass[0])
        scale, double = scale * factor, double * factor**2
        place = place + t * momentum / mass
        momentum = _push_chain(momentum, mass, double, settings, t, range(CHAIN))
    return state._replace(momenta=state.momenta * scale, chain=jnp.stack([place, momentum]))


def chain_energy(state: State, settings: Settings) -> jax.Array:
    """What a Nose-Hoover chain holds (eV): with kinetic and potential energy it is conserved."""
    place, momentum = state.chain
    potential = settings.thermal_energy * (settings.freedoms * place[0] + jnp.sum(place[1:]))
    return jnp.sum(momentum**2 / (2 * _chain_masses(settings))) + potential


def kinetic_energy(state: State, settings: Settings) -> jax.Array:
    """eV."""
    return jnp.sum(state.momenta**2 / settings.masses) / 2


def _kick(state: State, settings: Settings) -> State:
    momenta = splitting.kick(state.momenta, state.found.forces, settings.timestep)
    return state._replace(momenta=jnp.where(settings.free, momenta, 0))


def _drift(state: State, settings: Settings) -> State:
    return state._replace(positions=splitting.drift(state.positions, state.momenta, settings.masses, settings.timestep))


def _chain_masses(settings: Settings) -> jax.Array:
    head = jnp.arange(CHAIN) == 0
    return settings.thermal_energy * settings.relaxation_time**2 * jnp.where(head, settings.freedoms, 1.0)


def _push_chain(momentum: jax.Array, mass: jax.Array, double: jax.Array, settings: Settings, t: jax.Array, order: range) -> jax.Array:
    """Half a step t of the momenta [CHAIN] of a chain, one after the other; `double` is twice the kinetic energy of the atoms (eV)."""
    p = list(momentum)
    for k in order:
        target = settings.thermal_energy * (settings.freedoms if k == 0 else 1)
        push = t / 2 * ((double if k == 0 else p[k - 1] ** 2 / mass[k - 1]) - target)
        # Dragged by the next thermostat for half of the time, pushed for all of it, dragged for the other half.
        drag = jnp.exp(-t / 4 * p[k + 1] / mass[k + 1]) if k + 1 < CHAIN else 1.0
        p[k] = drag * (drag * p[k] + push)
    return jnp.stack(p)
