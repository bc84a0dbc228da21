"""Neighbour lists of the systems of a batch: made on the host, watched on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jraph
import numpy as np

from macejax.data.batch import Capacity, batch
from macejax.data.graph import Graph, build_graph, degree_within
from macejax.data.inputs import Embedding
from macejax.data.neighbors import wrap
from macejax.data.structure import Structure
from macejax.model.geometry import sum_per_graph
from macejax.simulate.lattice import needed_reach
from macejax.simulate.many.fields import Fields, max_per_graph, of_atoms
from macejax.simulate.matrices import inverse


class Listed(NamedTuple):
    """The edges of one system, found for these positions (Angstrom) and this cell."""

    graph: Graph  # its shifts belong to the positions as they are, wrapped or not
    reach: float  # Angstrom, cutoff and skin
    near: int  # the most neighbours within the cutoff that an atom has


class Lists(NamedTuple):
    """The lists of a batch."""

    graph: jraph.GraphsTuple
    positions: Any  # [N, 3] Angstrom, for which the edges were found
    cell: Any  # [G, 3, 3] Angstrom, likewise
    reach: Any  # [G] Angstrom
    periodic: Any  # [G] bool, in all three directions; only then may the cell change


def find(structure: Structure, elements: Sequence[int], cutoff: float, reach: float, embeddings: Sequence[Embedding] = ()) -> Listed:
    """All edges up to `reach` (Angstrom).

    Raises:
      DataError: the structure is invalid, has an element that is not among `elements`, or lacks an input of the model (`embeddings`).
    """
    graph = build_graph(structure, elements, reach, embeddings=embeddings)
    images = wrap(structure.positions, structure.cell, structure.pbc)[1]
    shift = graph.shift + images[graph.senders] - images[graph.receivers]
    return Listed(graph._replace(positions=structure.positions, shift=shift), reach, degree_within(graph, cutoff))


def gather_lists(listed: Sequence[Listed], capacity: Capacity, like: Listed | None = None) -> Lists:
    """One batch, in numpy; of nothing, with the fields that a batch of `like` has."""
    joined = batch([each.graph for each in listed], capacity, np.float64, None if like is None else like.graph)
    padding = capacity.graphs - len(listed)
    return Lists(
        graph=joined,
        positions=joined.nodes["positions"],
        cell=joined.globals["cell"],
        reach=np.array([each.reach for each in listed] + [1.0] * padding),
        periodic=np.array([bool(each.graph.pbc.all()) for each in listed] + [False] * padding),
    )


def reach_used(lists: Lists, state: Fields, cutoff: float) -> Any:
    """Part of each list's reach that is used [G]: above 1, a pair within the cutoff might be missing."""
    one = jnp.eye(3)
    varies = lists.periodic[:, None, None]
    now = jnp.where(varies, state.globals["cell"], one)
    then = jnp.where(varies, lists.cell, one)
    deformation = inverse(then) @ now
    moved = state.nodes["positions"] - jnp.einsum("na,nab->nb", lists.positions, of_atoms(deformation, lists.graph))
    moved = jnp.where(lists.graph.nodes["mask"][:, None], moved, 0)
    mean = sum_per_graph(moved, lists.graph) / jnp.maximum(lists.graph.n_node, 1)[:, None]
    distance = jnp.sqrt(jnp.sum((moved - of_atoms(mean, lists.graph)) ** 2, axis=1))
    return needed_reach(cutoff, max_per_graph(distance, lists.graph), now, then) / lists.reach
