"""FIRE and L-BFGS as rules: one step of each, for many systems that know nothing of each other. The steps are those of ASE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.simulate.many.coordinates import Vector, coordinates, dot, downhill, excess_stress, longest, place
from macejax.simulate.many.fields import DONE, RUNNING, Fields
from macejax.simulate.many.program import Rule

Optimizer = Literal["FIRE", "LBFGS"]
LONGEST_STEP = 0.2  # Angstrom; FIRE: of all coordinates together, L-BFGS: of an atom
MEMORY = 25  # pairs that L-BFGS keeps
CURVATURE = 70.0  # eV/Angstrom^2, what L-BFGS takes for the curvature at first
FLAT = 1e-10  # relative; a pair along which the curvature is not above this teaches L-BFGS nothing
# FIRE: first and longest timestep, factors of growth and of decrease, steps downhill before it grows; first mixing and its decrease.
FIRST_DT, LONGEST_DT, GROW, SHRINK, PATIENCE = 0.1, 1.0, 1.1, 0.5, 5
FIRST_MIXING, MIXING_DECAY = 0.1, 0.99


def rule(optimizer: Optimizer, cells: bool) -> Rule:
    """One step of a relaxation.

    `nodes`: undeformed, downhill [n, 3]. `globals`: log_deformation, cell_downhill, first_cell [3, 3], free_cell, pressure and smax
    (eV/Angstrom^3), fmax (eV/Angstrom), largest_force and largest_stress; `memory` gives what each optimizer adds.

    Args:
      optimizer: FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006) or LBFGS (Nocedal, Math. Comp. 35, 773, 1980; without line search).
      cells: whether any cell moves.
    """
    step: Callable[..., tuple[Vector, Fields]] = {"FIRE": _fire, "LBFGS": _lbfgs}[optimizer]

    def move(state: Fields, graph: jraph.GraphsTuple) -> Fields:
        at, force = coordinates(state), Vector(state.nodes["downhill"], state.globals["cell_downhill"])
        change, state = step(state, at, force, graph)
        return place(state, at.plus(change, jnp.ones(graph.n_node.shape[0]), graph), graph, cells)

    def measure(state: Fields, graph: jraph.GraphsTuple) -> Fields:
        force = downhill(state, graph, cells)
        largest = {"largest_force": longest(force, graph), "largest_stress": excess_stress(state)}
        return state.update({"downhill": force.atoms}, cell_downhill=force.cell, **largest)

    def verdict(before: Fields, state: Fields, graph: jraph.GraphsTuple) -> jax.Array:
        del before, graph
        low = (state.globals["largest_force"] < state.globals["fmax"]) & (state.globals["largest_stress"] <= state.globals["smax"])
        return jnp.where(low, DONE, RUNNING)

    return Rule(move, measure, verdict)


def memory(optimizer: Optimizer, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an optimizer knows of a system of that many atoms before its first step, per atom and per system."""
    none, no_cell = np.zeros((number, 3)), np.zeros((3, 3))
    if optimizer == "FIRE":
        numbers = {"dt": np.float64(FIRST_DT), "mixing": np.float64(FIRST_MIXING), "downhill_steps": np.int32(0)}
        return {"fire_velocity": none}, {"fire_cell_velocity": no_cell, "moved": np.bool_(False), **numbers}
    history, cell_history = np.zeros((number, MEMORY, 3)), np.zeros((MEMORY, 3, 3))
    return (
        {"changes": history, "bends": history, "before": none, "force_before": none},
        {
            "cell_changes": cell_history,
            "cell_bends": cell_history,
            "weights": np.zeros(MEMORY),
            "cell_before": no_cell,
            "cell_force_before": no_cell,
            "moved": np.bool_(False),
        },
    )


def _fire(state: Fields, at: Vector, force: Vector, graph: jraph.GraphsTuple) -> tuple[Vector, Fields]:
    """The next step, and the state that remembers it."""
    del at
    old = state.globals
    velocity = Vector(state.nodes["fire_velocity"], old["fire_cell_velocity"])
    power, square = dot(force, velocity, graph), dot(force, force, graph)
    good = power > 0
    speed = jnp.sqrt(dot(velocity, velocity, graph))
    turn = old["mixing"] * speed / jnp.sqrt(jnp.where(square > 0, square, 1))
    mixed = velocity.times(jnp.where(good, 1 - old["mixing"], 0), graph).plus(force, jnp.where(good, turn, 0), graph)
    patient = good & (old["downhill_steps"] > PATIENCE)
    dt = jnp.where(patient, jnp.minimum(old["dt"] * GROW, LONGEST_DT), jnp.where(good, old["dt"], old["dt"] * SHRINK))
    dt = jnp.where(old["moved"], dt, old["dt"])
    mixing = jnp.where(patient, old["mixing"] * MIXING_DECAY, jnp.where(good, old["mixing"], FIRST_MIXING))
    velocity = mixed.plus(force, dt, graph)
    length = dt * jnp.sqrt(dot(velocity, velocity, graph))
    change = velocity.times(dt * jnp.minimum(1, LONGEST_STEP / jnp.maximum(length, LONGEST_STEP)), graph)
    numbers = {"dt": dt, "mixing": mixing, "downhill_steps": jnp.where(good, old["downhill_steps"] + 1, 0)}
    state = state.update({"fire_velocity": velocity.atoms}, fire_cell_velocity=velocity.cell, moved=jnp.ones_like(old["moved"]), **numbers)
    return change, state


def _lbfgs(state: Fields, at: Vector, force: Vector, graph: jraph.GraphsTuple) -> tuple[Vector, Fields]:
    """The next step, and the state that remembers it.

    Where the last step showed no positive curvature, or the direction does not go downhill, the history is forgotten and the step follows
    the force, as long as the curvature's absolute value says.
    """
    nodes, old = state.nodes, state.globals
    change = Vector(at.atoms - nodes["before"], at.cell - old["cell_before"])
    bend = Vector(nodes["force_before"] - force.atoms, old["cell_force_before"] - force.cell)
    curvature = dot(change, bend, graph)
    length, turn = dot(change, change, graph), dot(bend, bend, graph)
    learnt = old["moved"] & (curvature > FLAT * jnp.sqrt(length * turn))
    changes = _push(Vector(nodes["changes"], old["cell_changes"]), change, learnt, graph)
    bends = _push(Vector(nodes["bends"], old["cell_bends"]), bend, learnt, graph)
    weight = jnp.where(learnt, 1 / jnp.where(learnt, curvature, 1), 0)[:, None]
    weights = jnp.where(learnt[:, None], jnp.concatenate([old["weights"][:, 1:], weight], axis=1), old["weights"])
    step = _two_loops(force, changes, bends, weights, graph)
    concave = old["moved"] & ~learnt
    forget = concave | ~(dot(step, force, graph) > 0)
    steepness = jnp.where(concave, jnp.abs(curvature) / jnp.where(length > 0, length, 1), CURVATURE)
    keep = jnp.where(forget, 0.0, 1.0)
    step = step.times(keep, graph).plus(force, (1 - keep) / jnp.maximum(steepness, FLAT), graph)
    step = step.times(LONGEST_STEP / jnp.maximum(longest(step, graph), LONGEST_STEP), graph)
    state = state.update(
        {"changes": changes.atoms, "bends": bends.atoms, "before": at.atoms, "force_before": force.atoms},
        cell_changes=changes.cell,
        cell_bends=bends.cell,
        weights=jnp.where(forget[:, None], 0, weights),
        cell_before=at.cell,
        cell_force_before=force.cell,
        moved=jnp.ones_like(old["moved"]),
    )
    return step, state


def _push(history: Vector, new: Vector, where: jax.Array, graph: jraph.GraphsTuple) -> Vector:
    """The history [N, H, 3], [G, H, 3, 3] with its oldest entry dropped and a new one at its end."""
    atoms = jnp.concatenate([history.atoms[:, 1:], new.atoms[:, None]], axis=1)
    cell = jnp.concatenate([history.cell[:, 1:], new.cell[:, None]], axis=1)
    of_nodes = where[graph.nodes["graph"]][:, None, None]
    return Vector(jnp.where(of_nodes, atoms, history.atoms), jnp.where(where[:, None, None, None], cell, history.cell))


def _two_loops(force: Vector, changes: Vector, bends: Vector, weights: jax.Array, graph: jraph.GraphsTuple) -> Vector:
    """The inverse Hessian that the history implies, times the force. An entry of weight 0 does nothing."""

    def entry(history: Vector, k: jax.Array) -> Vector:
        return Vector(history.atoms[:, k], history.cell[:, k])

    def backward(i: jax.Array, carry: tuple[Vector, jax.Array]) -> tuple[Vector, jax.Array]:
        q, factors = carry
        k = MEMORY - 1 - i
        factor = weights[:, k] * dot(entry(changes, k), q, graph)
        return q.plus(entry(bends, k), -factor, graph), factors.at[k].set(factor)

    def forward(k: jax.Array, carry: tuple[Vector, jax.Array]) -> tuple[Vector, jax.Array]:
        z, factors = carry
        factor = factors[k] - weights[:, k] * dot(entry(bends, k), z, graph)
        return z.plus(entry(changes, k), factor, graph), factors

    carry = (force, jnp.zeros((MEMORY, weights.shape[0]), weights.dtype))
    q, factors = jax.lax.fori_loop(0, MEMORY, backward, carry)
    z = q.times(jnp.full(weights.shape[0], 1 / CURVATURE), graph)
    return jax.lax.fori_loop(0, MEMORY, forward, (z, factors))[0]
