"""Many steps of many systems in one compiled program: each moves, waits or stops by itself, whatever the others do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors, sum_per_graph
from macejax.potential import Prediction, SiteEnergy, assemble
from macejax.potential.predict import as_sites
from macejax.simulate.hoist import hoist
from macejax.simulate.many.fields import NONFINITE, RUNNING, STALE, Fields, choose, max_per_graph
from macejax.simulate.many.lists import Lists, reach_used
from macejax.simulate.matrices import volumes
from macejax.simulate.prune import prune


class Rule(NamedTuple):
    """What a step is, as pure functions of a batch."""

    move: Callable[[Fields, jraph.GraphsTuple], Fields]  # to the positions and cell at which forces are needed next
    # What the step does once energy, forces and strain_derivative are new. Systems that are `new` have not moved: this was no step.
    finish: Callable[[Fields, jraph.GraphsTuple], Fields]
    # `(before, after, graph) -> status [G]` of the systems that have just been evaluated; what is not known before is NaN.
    verdict: Callable[[Fields, Fields, jraph.GraphsTuple], jax.Array]


class Recorded(NamedTuple):
    """Names of what a frame holds."""

    nodes: tuple[str, ...]
    globals: tuple[str, ...]


Advance = Callable[..., tuple[Fields, Fields]]


class Program(NamedTuple):
    """A compiled `advance`. Where there are several lanes, all arrays but `block` have a leading axis of them: parameters of their own."""

    run: Advance
    lanes: int
    compilations: Callable[[], int]  # so far


def make_program(advance: Advance, lanes: int) -> Program:
    """Compile what `make_advance` gives; arrays of new shapes compile anew."""
    traces = 0

    def run(params: Any, lists: Lists, state: Fields, block: Any, frames: int, near_slots: int) -> tuple[Fields, Fields]:
        nonlocal traces
        traces += 1  # python runs this while jax traces
        if lanes == 1:
            return advance(params, lists, state, block, frames, near_slots)
        return jax.vmap(lambda p, table, s: advance(p, table, s, block, frames, near_slots))(params, lists, state)

    return Program(jax.jit(run, static_argnames=("frames", "near_slots")), lanes, lambda: traces)


def make_advance(site_energy: SiteEnergy, rule: Rule, cutoff: float, dtype: Any, recorded: Recorded) -> Advance:
    """A function `(params, lists, state, block, frames, near_slots) -> (state, frames)`.

    It runs `frames` blocks. In a block every system takes at most `block` steps and stops at the next multiple of its `every`, at its
    `total`, or where its status is no longer RUNNING. A step after which its neighbour list might lack a pair is not taken: the system
    keeps the state before, is STALE, and goes on once the host has made a new list; so is one in which an atom has more than `near_slots`
    neighbours within the cutoff, its `near` saying so. A step to numbers that are not finite is not taken either. When half of the systems
    are stale, all wait. None of this changes what a system does, only when. After each block the recorded fields are a frame.

    Positions, cells and all of the state are float64; the model sees edge vectors in `dtype`.

    Args:
      site_energy: `(params, vectors, graph) -> node energies`.
      rule: what a step is.
      cutoff: of the model (Angstrom).
      dtype: of the parameters.
      recorded: what a frame holds.
    """

    def advance(params: Any, lists: Lists, state: Fields, block: Any, frames: int, near_slots: int) -> tuple[Fields, Fields]:
        running = jnp.sum(state.globals["status"] == RUNNING)

        def evaluated(fixed: tuple[Any, jraph.GraphsTuple], state: Fields) -> tuple[Prediction, jax.Array]:
            return evaluate(site_energy, dtype, *fixed, state, cutoff, near_slots)

        of_model = hoist(evaluated, (params, lists.graph), state)

        def one_block(state: Fields, _: None) -> tuple[Fields, Fields]:
            first = state.globals["step"]
            boundary = jnp.minimum((first // state.globals["every"] + 1) * state.globals["every"], state.globals["total"])
            boundary = jnp.where(state.globals["new"], first, boundary)

            def active(state: Fields) -> jax.Array:
                return (state.globals["status"] == RUNNING) & (state.globals["new"] | (state.globals["step"] < boundary))

            def go_on(carry: tuple[jax.Array, Fields]) -> jax.Array:
                count, state = carry
                stale = jnp.sum(state.globals["status"] == STALE)
                return (count < block) & jnp.any(active(state)) & (2 * stale < running)

            def step(carry: tuple[jax.Array, Fields]) -> tuple[jax.Array, Fields]:
                count, state = carry
                return count + 1, _step(of_model, rule, cutoff, near_slots, lists, state, active(state))

            state = jax.lax.while_loop(go_on, step, (jnp.int32(0), state))[1]
            frame = Fields(
                {name: state.nodes[name] for name in recorded.nodes},
                {name: state.globals[name] for name in (*recorded.globals, "step", "new")},
            )
            return state, frame

        return jax.lax.scan(one_block, state, None, length=frames)

    return advance


def evaluate(
    site_energy: SiteEnergy, dtype: Any, params: Any, graph: jraph.GraphsTuple, state: Fields, cutoff: float, near_slots: int
) -> tuple[Prediction, jax.Array]:
    """Energy, forces and strain derivative at the positions and cells of `state`, in float64 but for the model itself, and how many
    neighbours within the cutoff the atoms of each system have at most, [G] int32: more than `near_slots` are too many.
    """
    cell = state.globals["cell"]
    volume = jnp.where(state.globals["has_volume"], volumes(cell), 0)
    graph = graph._replace(
        nodes={**graph.nodes, "positions": state.nodes["positions"]}, globals={**graph.globals, "cell": cell, "volume": volume}
    )
    graph, degrees = prune(graph, cutoff, near_slots)
    vectors = edge_vectors(graph)

    def total(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        node_energy = as_sites(site_energy(params, vectors, graph)).energy
        return jnp.sum(node_energy), node_energy

    gradient, node_energy = jax.grad(total, has_aux=True)(vectors.astype(dtype))
    found = assemble(node_energy.astype(vectors.dtype), gradient.astype(vectors.dtype), graph)
    return found, max_per_graph(degrees.astype(vectors.dtype), graph).astype(jnp.int32)


def _step(
    of_model: Callable[[Fields], tuple[Prediction, jax.Array]],
    rule: Rule,
    cutoff: float,
    near_slots: int,
    lists: Lists,
    state: Fields,
    active: jax.Array,
) -> Fields:
    """One step of the active systems [G]; those that are new are evaluated where they are."""
    graph, new = lists.graph, state.globals["new"]
    moved = choose(new, state, rule.move(state, graph), graph)
    used = reach_used(lists, moved, cutoff)
    found, near = of_model(moved)
    known = moved.update({"forces": found.forces}, energy=found.energy, strain_derivative=found.strain_derivative, used=used)
    step = known.globals["step"] + ~new
    after = rule.finish(known, graph).update(new=jnp.zeros_like(new), step=step)
    finite = jnp.isfinite(found.energy + sum_per_graph(jnp.sum(found.forces, axis=1), graph))
    missing = (used > 1) | ((used <= 1) & (near > near_slots))  # not where `used` is NaN: then nothing is finite
    verdict = jnp.where(missing, STALE, jnp.where(finite, rule.verdict(state, after, graph), NONFINITE))
    taken = active & ((verdict == RUNNING) | (verdict > NONFINITE))
    status = jnp.where(active, verdict, state.globals["status"]).astype(state.globals["status"].dtype)
    return choose(taken, after, state, graph).update(status=status, near=jnp.where(active, near, state.globals["near"]))
