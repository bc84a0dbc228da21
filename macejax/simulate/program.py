"""The compiled loop of a simulation, and chunks of it that are done again where the neighbour list did not fit its arrays."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase.units import kB

from macejax.data.structure import DataError
from macejax.potential import SiteEnergy
from macejax.simulate.hoist import hoist
from macejax.simulate.integrators import Middle, Settings, State, kinetic_energy, step
from macejax.simulate.list_shape import grown, reshape
from macejax.simulate.md import JUMP, SimulationError, explosion
from macejax.simulate.row_list import RowList, update, watched
from macejax.simulate.system import Evaluation, Species, evaluate

MOST_REPLAYS = 20  # of one chunk, each with larger arrays


class Program(NamedTuple):
    """What a run computes with."""

    site_energy: SiteEnergy
    middle: Middle
    params: Any
    species: Species
    settings: Settings
    hottest: float  # K, of all degrees of freedom that are not held; above, the run has exploded


@partial(jax.jit, static_argnames=("site_energy", "middle"))
def advance(
    site_energy: SiteEnergy,
    middle: Middle,
    params: Any,
    species: Species,
    settings: Settings,
    state: State,
    rows: RowList,
    until: jax.Array,
    limit: jax.Array,
) -> tuple[State, RowList, jax.Array]:
    """Go to step `until`, or to where the list overflows or the run explodes. Compiled once for each model, ensemble and shape of the list.

    Args:
      limit: of the kinetic energy, eV.

    Returns:
      The state, its list, and whether its numbers are finite, its kinetic energy below the limit and its potential energy without jumps.
    """

    def of_model(fixed: tuple[Any, Species], positions: jax.Array, cell: jax.Array, rows: RowList) -> tuple[Evaluation, jax.Array]:
        return evaluate(site_energy, *fixed, positions, cell, rows)

    evaluation = hoist(of_model, (params, species), state.positions, state.cell, rows)

    def renew(positions: jax.Array, cell: jax.Array, rows: RowList) -> tuple[Evaluation, RowList]:
        rows = update(rows, positions, cell)
        found, near_degree = evaluation(positions, cell, rows)
        return found, watched(rows, near_degree)

    def goes_on(carry: tuple[State, RowList, jax.Array]) -> jax.Array:
        state, rows, sane = carry
        return (state.step < until) & sane & ~rows.overflow

    def body(carry: tuple[State, RowList, jax.Array]) -> tuple[State, RowList, jax.Array]:
        state, rows = step(carry[0], carry[1], settings, middle, renew)
        jumped = jnp.abs(state.found.energy - carry[0].found.energy) > JUMP * limit  # not at first, when nothing is known
        # NaN is not below any limit.
        return state, rows, jnp.isfinite(state.found.energy) & (kinetic_energy(state, settings) <= limit) & ~jumped

    return jax.lax.while_loop(goes_on, body, (state, rows, jnp.bool_(True)))


def run_chunk(program: Program, state: State, rows: RowList, until: int, timestep: float) -> tuple[State, RowList, int]:
    """From a state to step `until`. Where the list overflows, the chunk is done again up to the step before, and goes on in larger arrays.

    The list goes over into them as it is, and the forces of that step are computed in them anew, since a model's matrix products may
    round otherwise in arrays of another size (those of a small model on a CPU do not: `ops/slots.py`). What follows has the bits of a run
    whose arrays were large from that step on: which step that is depends on the atoms alone, not on where chunks begin.

    Args:
      timestep: fs, for messages.

    Returns:
      The state, its list, and how often it had to grow.

    Raises:
      SimulationError: a number that is not finite, an absurd temperature, a potential energy that jumps, or atoms that collapsed.
    """
    per_kelvin = max(int(np.sum(program.settings.free)), 1) / 2 * kB
    limit = np.float64(per_kelvin * program.hottest)
    for replays in range(MOST_REPLAYS):
        end, new, sane = advance(*program[:-1], state, rows, np.int32(until), limit)
        if not bool(new.overflow):
            if bool(sane):
                return end, new, replays
            kinetic = float(kinetic_energy(end, program.settings))
            raise explosion(int(end.step), float(end.found.energy) + kinetic, kinetic / per_kelvin, program.hottest, timestep)
        if int(end.step) - 1 > int(state.step):  # the same steps to the bit, and none that overflows
            state, rows, _ = advance(*program[:-1], state, rows, np.int32(int(end.step) - 1), limit)
        try:
            rows = reshape(rows, grown(rows.shape, new))
        except DataError as error:
            raise SimulationError(f"step {int(end.step)}: {error}") from error
        # Where the list was never filled it may overflow here once more, but then this is the first evaluation, which needs no forces.
        start, _, _ = advance(*_still(program)[:-1], _before(state), rows, np.int32(state.step), np.float64(np.inf))
        state = state._replace(found=start.found)
    raise SimulationError(f"step {int(end.step)}: after {MOST_REPLAYS} enlargements the neighbour list still overflows ({new.shape}).")


def first_evaluation(program: Program, state: State, rows: RowList) -> tuple[State, RowList]:
    """The state with its energy and forces: a step of no length, by the one program that there is."""
    state, rows, _ = run_chunk(_still(program), _before(state), rows, int(state.step), 0.0)
    return state, rows


def _still(program: Program) -> Program:
    """Its steps have no length, and nothing explodes."""
    return program._replace(settings=program.settings._replace(timestep=jnp.zeros_like(program.settings.timestep)), hottest=np.inf)


def _before(state: State) -> State:
    return state._replace(step=state.step - 1)
