"""Frames of a canonical ensemble, drawn on the device, for averages by `reweight`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jraph
import numpy as np
from numpy.typing import DTypeLike

from macejax.data.batch import round_slots
from macejax.data.graph import build_graph, degree_within
from macejax.data.structure import LABELS, Structure
from macejax.differentiate.graph import alone, atomic_masses
from macejax.differentiate.trajectory import Near, Trajectory, check, langevin, maxwell_boltzmann, simulate, start
from macejax.potential import SiteEnergy
from macejax.simulate.prune import prune

# Labels of the start are not those of the frames.
UNLABELLED: dict[str, Any] = {name: Structure._field_defaults[name] for name in (*LABELS, "weights")} | {"source": "a sampled frame"}
HEADROOM = 1.2  # of neighbour slots: degrees fluctuate, and a compilation costs more than the slots

Sampler = Callable[[Any, Structure, int, jax.Array], list[Structure]]  # (params, start, frames, key) -> frames


def sampler(
    site_energy: SiteEnergy,
    elements: Sequence[int],
    cutoff: float,
    *,
    temperature: float,
    timestep: float,
    every: int,
    relaxation_time: float = 100.0,
    skin: float = 2.0,
    dtype: DTypeLike = np.float64,
    **options: Any,
) -> Sampler:
    """A function `(params, structure, frames, key) -> [Structure]` that runs Langevin dynamics and keeps every `every`-th step.

    Edges are found anew for every frame, and what is compiled serves all calls. The first frames of a run are not of the ensemble yet:
    leave them out.

    Args:
      site_energy: as for `macejax.potential.predict`.
      elements: atomic numbers that the model knows, ascending.
      cutoff: of the model (Angstrom).
      temperature: K.
      timestep: fs.
      every: steps from one frame to the next.
      relaxation_time: of velocities (fs).
      skin: Angstrom; no atom may move by more than half of it between two frames.
      dtype: of the computation.
      options: `heads` and `embeddings` of a model that has several heads, or inputs (`build_graph`).

    Returns:
      the sampler. It raises DerivativeError where an atom leaves the skin, or a number is not finite.
    """

    @partial(jax.jit, static_argnames="near")
    def run(params: Any, graph: jraph.GraphsTuple, velocities: jax.Array, key: jax.Array, near: Near) -> Trajectory:
        step = langevin(atomic_masses(graph, elements), graph.nodes["mask"], timestep, temperature, relaxation_time)
        state = start(site_energy, params, prune(graph, *near)[0], velocities)
        return simulate(site_energy, params, graph, step, state, every, key=key, every=every, near=near)

    slots = near_slots = round_slots(0)  # of the widest window so far, and within the cutoff

    def draw(params: Any, structure: Structure, frames: int, key: jax.Array) -> list[Structure]:
        nonlocal slots, near_slots
        found = []
        velocities = None
        first, *keys = jax.random.split(key, frames + 1)
        for own in keys:
            found_edges = build_graph(structure, elements, cutoff + skin, **options)
            if found_edges.max_degree > slots:
                slots = round_slots(found_edges.max_degree * HEADROOM)
            graph = alone(found_edges, dtype, slots)
            if velocities is None:
                velocities = maxwell_boltzmann(first, atomic_masses(graph, elements), graph.nodes["mask"], temperature)
            need = degree_within(found_edges, cutoff)
            while True:
                near_slots = near_slots if need <= near_slots else round_slots(need * HEADROOM)
                trajectory = run(params, graph, velocities, own, Near(cutoff, near_slots))
                if (need := int(trajectory.crowd)) <= near_slots:
                    break
            last = check(trajectory, skin).last
            velocities = last.velocities
            positions = np.asarray(last.positions, np.float64)[: len(structure.numbers)]
            structure = structure._replace(positions=positions, **UNLABELLED)
            found.append(structure)
        return found

    return draw
