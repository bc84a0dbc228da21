"""A structure and the edges that serve it for a while: the graph that a differentiable simulation runs on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase.data
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from numpy.typing import DTypeLike

from macejax.data.batch import batch, capacity_for
from macejax.data.graph import Graph, build_graph
from macejax.data.structure import Structure
from macejax.differentiate.errors import DerivativeError


def window(
    structure: Structure, elements: Sequence[int], cutoff: float, skin: float, dtype: DTypeLike = np.float64, **options: Any
) -> jraph.GraphsTuple:
    """The batch of one structure whose edges reach `skin` beyond the cutoff: right until an atom has moved by half of the skin.

    Args:
      structure: where the atoms are.
      elements: atomic numbers that the model knows, ascending.
      cutoff: of the model (Angstrom). Its site energy must not depend on longer edges, as that of a MACE does not.
      skin: Angstrom.
      dtype: of the computation.
      options: `heads` and `embeddings` of a model that has several heads, or inputs (`build_graph`).

    Raises:
      DataError: the structure is invalid, or has an element that the model does not know.
    """
    if not skin >= 0:
        raise ValueError(f"skin must be 0 or more (Angstrom), not {skin}.")
    return alone(build_graph(structure, elements, cutoff + skin, **options), dtype)


def alone(graph: Graph, dtype: DTypeLike = np.float64, slots: int | None = None) -> jraph.GraphsTuple:
    """The batch of one graph, on the device.

    Args:
      graph: one structure with its edges.
      dtype: of the computation.
      slots: neighbour slots of an atom, a multiple of 4, so that several batches have one shape; as many as are needed where not given.
    """
    capacity = capacity_for([graph])
    return jax.tree.map(jnp.asarray, batch([graph], capacity if slots is None else capacity._replace(slots=slots), dtype))


def atomic_masses(graph: jraph.GraphsTuple, elements: Sequence[int]) -> jax.Array:
    """Masses [N] (u) of the atoms of a batch, those of ASE; 1 on padding."""
    table = jnp.asarray(ase.data.atomic_masses[list(elements)], graph.nodes["positions"].dtype)
    return jnp.where(graph.nodes["mask"], table[graph.nodes["species"]], 1)


def displacement(graph: jraph.GraphsTuple, positions: jax.Array) -> jax.Array:
    """How far (Angstrom) the atom has moved that has moved farthest since the edges were found; a common motion of all does not count."""
    real = graph.nodes["mask"][:, None]
    moved = jnp.where(real, positions - graph.nodes["positions"], 0)
    moved = jnp.where(real, moved - jnp.sum(moved, axis=0) / jnp.maximum(jnp.sum(real), 1), 0)
    return jnp.sqrt(jnp.max(jnp.sum(jax.lax.stop_gradient(moved) ** 2, axis=1)))


def refuse_outside(farthest: jax.Array, skin: float) -> None:
    """Raise DerivativeError where atoms have moved so far that an edge may be missing. Call it outside of jit."""
    if not float(farthest) <= skin / 2:
        raise DerivativeError(
            f"an atom moved by {float(farthest):.3g} Angstrom, more than half of the skin ({skin} Angstrom): edges may be missing. Take a "
            f"larger skin or fewer steps."
        )
