"""Verlet list: a batch of one structure whose edges reach beyond the cutoff, so that it outlasts many small moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jraph
import numpy as np
from ase.geometry import complete_cell
from numpy.typing import DTypeLike

from macejax.config import EmbeddingConfig
from macejax.data.batch import Capacity, batch, capacity_for, round_slots, with_low
from macejax.data.graph import build_graph, degree_within
from macejax.data.neighbors import most_neighbors, wrap
from macejax.data.structure import Structure, volume
from macejax.simulate.lattice import needed_reach
from macejax.simulate.prune import prune

HEADROOM = 1.1  # of neighbour slots in the first batch: degrees fluctuate, and a compilation costs more than the slots
GROWTH = 1.25  # of what was too small: the number of compilations grows as the logarithm of the size
LARGEST_WASTE = 2.0  # times the slots needed; a smaller structure gets a batch of its own

_prune = jax.jit(prune, static_argnums=(1, 2))


class VerletList(NamedTuple):
    """The structure for which the edges were found, and its batch."""

    structure: Structure
    images: np.ndarray  # [n, 3] int, lattice vectors that bring each atom into the cell
    species: np.ndarray  # [n] int, index into the model's elements
    capacity: Capacity
    near: int  # the most neighbours within the cutoff that an atom has
    batch: jraph.GraphsTuple  # on the device


def make_list(
    structure: Structure,
    elements: Sequence[int],
    cutoff: float,
    reach: float,
    capacities: Sequence[Capacity],
    dtype: DTypeLike,
    embeddings: Sequence[EmbeddingConfig] = (),
) -> VerletList:
    """Find all edges up to `reach` (Angstrom) and put them into the smallest capacity that holds them, or into a new one.

    Args:
      cutoff: of the model (Angstrom).
      embeddings: inputs that the model reads beside the structure.

    Raises:
      DataError: the structure has an element that is not among `elements`, or lacks an input.
    """
    graph = build_graph(structure, elements, reach, embeddings=embeddings)
    capacity = choose(capacities, capacity_for([graph]))
    images = wrap(structure.positions, structure.cell, structure.pbc)[1]
    placed = jax.device_put(batch([graph], capacity, dtype))
    return VerletList(structure, images, graph.species, capacity, degree_within(graph, cutoff), placed)


def same_inputs(old: Structure, new: Structure) -> bool:
    """What a model may read beside atoms and cell; it is in the batch."""
    pairs = [(getattr(old, name), getattr(new, name)) for name in ("total_charge", "total_spin", "charges")]
    pairs += [(old.inputs.get(name), new.inputs.get(name)) for name in {*old.inputs, *new.inputs}]
    return all(np.array_equal(one, other) for one, other in pairs)


def lasts(kept: VerletList, structure: Structure, cutoff: float, reach: float) -> bool:
    """Whether every pair of atoms now within the cutoff was within `reach` when the list was made."""
    old = kept.structure
    if not same_inputs(old, structure):
        return False
    if not (np.array_equal(old.numbers, structure.numbers) and np.array_equal(old.pbc, structure.pbc)):
        return False
    now, then = _periodic_cell(structure), _periodic_cell(old)
    moved = structure.positions - old.positions @ np.linalg.solve(then, now)
    farthest = np.linalg.norm(moved - moved.mean(axis=0), axis=1).max()
    return bool(needed_reach(cutoff, farthest, now, then) <= reach)


def move(kept: VerletList, structure: Structure) -> jraph.GraphsTuple:
    """The batch with the positions and the cell of now. Atoms stay in the images that the shifts of the edges speak of."""
    positions = structure.positions + kept.images @ structure.cell
    origin = np.zeros(kept.batch.globals["origin"].shape)
    origin[0] = positions.mean(axis=0)
    nodes, variables = kept.batch.nodes, kept.batch.globals
    dtype = nodes["positions"].dtype
    padded = np.zeros(nodes["positions"].shape)
    padded[: len(positions)] = positions - origin[0]
    cell, size = np.tile(np.eye(3), (len(kept.batch.n_node), 1, 1)), np.array(variables["volume"])
    cell[0], size[0] = structure.cell, volume(structure.cell)
    moved = with_low("positions", padded, dtype)
    changed = {**with_low("cell", cell, dtype), "volume": size, "origin": origin.astype(dtype)}
    return kept.batch._replace(nodes={**nodes, **moved}, globals={**variables, **changed})


def choose(capacities: Sequence[Capacity], need: Capacity) -> Capacity:
    """The smallest of the capacities that holds `need` without much waste; where there is none, a new one with room to grow."""
    enough = LARGEST_WASTE * need.num_slots
    fitting = [c for c in capacities if c.holds(need) and c.num_slots <= enough]
    if fitting:
        return min(fitting, key=lambda c: (c.num_slots, c.species))
    # The number of atoms is constant in most uses, so the first one is taken as it is; and where it came back, only slots were too few.
    same_size = any(c.nodes == need.nodes for c in capacities)
    nodes = need.nodes if same_size or not capacities else int(np.ceil(need.nodes * GROWTH))
    return need._replace(nodes=nodes, slots=round_slots(need.slots * (GROWTH if same_size else HEADROOM)))


def within(kept: VerletList, moved: jraph.GraphsTuple, cutoff: float, widths: dict[Capacity, int]) -> jraph.GraphsTuple:
    """The moved batch with its edges up to the cutoff (Angstrom) alone.

    Args:
      widths: slots of these edges in batches of each capacity, which grow here where they are too few.
    """
    need, slots = kept.near, widths.get(kept.capacity, 0)
    most = most_neighbors(kept.structure.pbc, len(kept.species))
    while True:
        if need > slots or not slots:
            slots = min(round_slots(min(need * (GROWTH if slots else HEADROOM), most)), kept.capacity.slots)
        widths[kept.capacity] = slots
        pruned, degrees = _prune(moved, cutoff, slots)
        if (need := int(np.asarray(degrees).max())) <= slots:
            return pruned


def _periodic_cell(structure: Structure) -> np.ndarray:
    """The lattice vectors of the periodic directions [3, 3] (Angstrom), completed by orthogonal unit vectors."""
    return complete_cell(structure.cell * structure.pbc[:, None])
