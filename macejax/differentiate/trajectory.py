"""Molecular dynamics as a pure function of parameters and of the start, to be differentiated through its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from ase import units

from macejax.differentiate.checkpoint import checkpointed_scan
from macejax.differentiate.errors import DerivativeError
from macejax.differentiate.graph import displacement, refuse_outside
from macejax.potential import SiteEnergy, forces_at
from macejax.potential.deform import place
from macejax.simulate import splitting
from macejax.simulate.prune import prune

ACCELERATION = units.fs**2  # Angstrom/fs^2 of 1 eV/Angstrom on 1 u
BOLTZMANN = units.kB  # eV/K


class State(NamedTuple):
    """Where the atoms are, and whereto they go. Padding is at rest."""

    positions: jax.Array  # [N, 3] Angstrom, not wrapped: atoms stay in the images that the edges speak of
    velocities: jax.Array  # [N, 3] Angstrom/fs
    forces: jax.Array  # [N, 3] eV/Angstrom


class Near(NamedTuple):
    """The edges that a model needs, of those that a graph has."""

    cutoff: float  # Angstrom
    slots: int  # of an atom, a multiple of 4


class Trajectory(NamedTuple):
    """What became of a simulation."""

    last: State
    observed: Any  # what `observe` gave, stacked [steps // every, ...]
    farthest: jax.Array  # [] Angstrom, the largest displacement of an atom since the edges were found, of all steps
    finite: jax.Array  # [] bool: all positions were, at all steps, and no atom had more neighbours than `near` has slots
    crowd: jax.Array  # [] int32, the most neighbours within the cutoff of `near` that an atom had; 0 without it


Forces = Callable[[jax.Array], jax.Array]  # positions -> forces, both [N, 3]
Step = Callable[[Forces, State, jax.Array], State]  # the last argument is the key of the step, consumed


def nve(masses: jax.Array, timestep: float | jax.Array) -> Step:
    """A step of velocity Verlet.

    Args:
      masses: [N] u.
      timestep: fs.
    """
    return _splitting(masses, timestep, lambda momenta, key: momenta)


def langevin(
    masses: jax.Array,
    mask: jax.Array,
    timestep: float | jax.Array,
    temperature: float | jax.Array,
    relaxation_time: float | jax.Array = 100.0,
) -> Step:
    """A step of Langevin dynamics in the BAOAB splitting (`macejax.simulate.splitting`).

    The noise depends on the keys alone, so that a derivative compares trajectories of the same noise.

    Args:
      masses: [N] u.
      mask: [N] bool, real atoms.
      timestep: fs.
      temperature: K.
      relaxation_time: of velocities (fs), the inverse of the friction.
    """

    def thermostat(momenta: jax.Array, key: jax.Array) -> jax.Array:
        noise = jnp.where(mask[:, None], jax.random.normal(key, momenta.shape, momenta.dtype), 0)
        numbers = BOLTZMANN * temperature, timestep * units.fs, relaxation_time * units.fs
        kT, t, time = (jnp.asarray(number, momenta.dtype) for number in numbers)
        return splitting.ornstein_uhlenbeck(momenta, masses[:, None], kT, t, time, noise)

    step = _splitting(masses, timestep, thermostat)
    step.draws_noise = True  # type: ignore[attr-defined]  # so that `simulate` asks for a key
    return step


def _splitting(masses: jax.Array, timestep: float | jax.Array, middle: Callable[[jax.Array, jax.Array], jax.Array]) -> Step:
    """A step of half a kick, half a drift, what `middle` makes of the momenta [N, 3] (sqrt(u eV)) and a key, half a drift, half a kick."""
    masses = masses[:, None]

    def step(forces: Forces, state: State, key: jax.Array) -> State:
        t = jnp.asarray(timestep * units.fs, state.positions.dtype)
        momenta = splitting.kick(masses * state.velocities / units.fs, state.forces, t)
        positions = splitting.drift(state.positions, momenta, masses, t)
        momenta = middle(momenta, key)
        positions = splitting.drift(positions, momenta, masses, t)
        after = forces(positions)
        return State(positions, splitting.kick(momenta, after, t) / masses * units.fs, after)

    return step


def start(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, velocities: jax.Array) -> State:
    """The first state: positions of the batch, `velocities` [N, 3] (Angstrom/fs), and forces."""
    positions = graph.nodes["positions"]
    return State(positions, velocities, forces_at(site_energy, params, graph, positions))


def simulate(
    site_energy: SiteEnergy,
    params: Any,
    graph: jraph.GraphsTuple,
    step: Step,
    state: State,
    steps: int,
    *,
    key: jax.Array | None = None,
    observe: Callable[[State], Any] | None = None,
    every: int = 1,
    segment: int | None = None,
    near: Near | None = None,
) -> Trajectory:
    """Take `steps` steps; differentiable by parameters, start, masses, temperature and timestep, in memory of order sqrt(steps).

    A derivative grows with the trajectory as trajectories part, exponentially where the dynamics is chaotic: keep to times that are short
    against the inverse of the largest Lyapunov exponent, some tenths of a picosecond in a liquid, and take `reweight` for averages.

    Args:
      site_energy, params: as for `macejax.potential.predict`.
      graph: batch of one structure, from `window`; its edges are kept throughout.
      step: `nve(...)`, `langevin(...)`, or one's own.
      state: from `start`.
      steps: how many, a multiple of `every`.
      key: of random numbers, split into one for each step; not needed by nve, and asked for by langevin.
      observe: a function of the state, called after every `every` steps. What it returns is kept, so let it be small.
      every: steps from one observation to the next.
      segment: observations between two checkpoints of the reverse pass; about the square root of their number where it is not given.
      near: leave the edges beyond the cutoff out in every step: with a skin of 2 Angstrom they are most of all. Where an atom has more
        neighbours than slots, nothing is finite from there on, and `crowd` says how many they were.

    Returns:
      Trajectory. Outside of jit, give it to `check`: a list of edges that ran out would else go unnoticed.
    """
    if steps < 1 or every < 1 or steps % every:
        raise ValueError(f"steps ({steps}) must be a multiple of every ({every}), both at least 1.")
    if key is None and getattr(step, "draws_noise", False):
        raise ValueError("this step draws random numbers: give a key.")
    keys = jax.random.split(jax.random.key(0) if key is None else key, steps).reshape(steps // every, every)

    def edges_at(positions: jax.Array) -> tuple[jraph.GraphsTuple, jax.Array]:
        if near is None:
            return graph, jnp.int32(0)
        pruned, degrees = prune(place(graph, jax.lax.stop_gradient(positions)), *near)
        return pruned, jnp.max(degrees)

    def forces(positions: jax.Array) -> jax.Array:
        edges, degree = edges_at(positions)
        found = forces_at(site_energy, params, edges, positions)
        return found if near is None else jnp.where(degree > near.slots, jnp.nan, found)

    def one(carry: tuple[State, Any], key: jax.Array) -> tuple[tuple[State, Any], None]:
        state, (farthest, finite, crowd) = carry
        state = step(forces, state, key)
        crowd = jnp.maximum(crowd, edges_at(state.positions)[1])
        finite &= jnp.isfinite(state.positions).all()
        if near is not None:
            finite &= crowd <= near.slots  # the forces of the last step are not among the positions
        return (state, (jnp.maximum(farthest, displacement(graph, state.positions)), finite, crowd)), None

    def frame(carry: Any, keys: jax.Array) -> tuple[Any, Any]:
        carry, _ = one(carry, keys[0]) if every == 1 else jax.lax.scan(jax.checkpoint(one, prevent_cse=False), carry, keys)
        return carry, None if observe is None else observe(carry[0])

    first = (state, (jnp.zeros((), state.positions.dtype), jnp.isfinite(state.positions).all(), edges_at(state.positions)[1]))
    (last, watched), observed = checkpointed_scan(frame, first, keys, segment)
    return Trajectory(last, observed, *watched)


def check(trajectory: Trajectory, skin: float, near: Near | None = None) -> Trajectory:
    """The trajectory itself, where nothing went wrong; for outside of jit.

    Raises:
      DerivativeError: a position was not finite, atoms moved by more than half of the skin (Angstrom) of the edges, or one of them had more
        neighbours than `near`, with which the trajectory was made, has slots.
    """
    if near is not None and int(trajectory.crowd) > near.slots:
        raise DerivativeError(f"an atom had {int(trajectory.crowd)} neighbours, more than the {near.slots} slots of `near`: take more.")
    if not bool(trajectory.finite):
        raise DerivativeError("positions are not finite: take a shorter timestep, or look at the start and the parameters.")
    refuse_outside(trajectory.farthest, skin)
    return trajectory


def maxwell_boltzmann(key: jax.Array, masses: jax.Array, mask: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Velocities [N, 3] (Angstrom/fs) of `temperature` (K), without motion of the whole; padding is at rest."""
    thermal = jnp.sqrt(ACCELERATION * BOLTZMANN * temperature / masses)
    drawn = thermal[:, None] * jax.random.normal(key, (masses.shape[0], 3), masses.dtype)
    heavy = jnp.where(mask, masses, 0)[:, None]
    return jnp.where(mask[:, None], drawn - jnp.sum(heavy * drawn, axis=0) / jnp.sum(heavy), 0)


def kinetic_energy(state: State, masses: jax.Array) -> jax.Array:
    """Sum of m v^2 / 2 (eV)."""
    return jnp.sum(masses[:, None] * state.velocities**2) / (2 * ACCELERATION)
