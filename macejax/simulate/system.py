"""Atoms whose neighbour list lives on the device: their graph, and energy, forces and strain derivative of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.config import ConfigError, ModelConfig
from macejax.data.inputs import read_inputs
from macejax.data.species import species_index
from macejax.data.structure import Structure
from macejax.model.geometry import edge_vectors
from macejax.potential import SiteEnergy, assemble
from macejax.potential.predict import energies_of
from macejax.simulate.prune import prune
from macejax.simulate.row_list import RowList, settle


class Species(NamedTuple):
    """What N atoms are to a model: their elements, and what else it embeds."""

    index: np.ndarray  # [N] int32, into the model's elements
    slot: np.ndarray  # [N] int32, into the table
    table: np.ndarray  # [S] int32, elements present
    of_atoms: dict[str, np.ndarray] | None = None  # inputs of atoms by name, [N] or [N, values]
    of_structure: dict[str, np.ndarray] | None = None  # and of the structure, []


class Evaluation(NamedTuple):
    """What a potential says of one structure."""

    energy: jax.Array  # [] eV, interaction energy: without E0s
    forces: jax.Array  # [N, 3] eV/Angstrom
    strain_derivative: jax.Array  # [3, 3] eV


def species_of(numbers: np.ndarray, elements: Sequence[int]) -> Species:
    """Species of atomic numbers [N], for a model with these elements.

    Raises:
      DataError: an element that the model does not know.
    """
    index = species_index(np.asarray(numbers), elements)
    table = np.unique(index).astype(np.int32)
    return Species(index, np.searchsorted(table, index).astype(np.int32), table)


def with_inputs(species: Species, structure: Structure, config: ModelConfig) -> Species:
    """The species with what the model embeds beside atoms and cell.

    Raises:
      DataError: an input is missing, has the wrong shape, or is a number that the model has no vector for.
    """
    found = read_inputs(structure, config.joint_embedding)
    of_atoms = {name: value for name, value in found.items() if value.ndim > 0}
    of_structure = {name: value for name, value in found.items() if value.ndim == 0}
    return species._replace(of_atoms=of_atoms or None, of_structure=of_structure or None)


def check_model(config: ModelConfig) -> None:
    """Refuse a model that makes nothing move, or more than one thing.

    Raises:
      ConfigError: no energies, or several heads.
    """
    if not config.has_energies:
        raise ConfigError(f"a {config.model} predicts no energies, so that nothing moves: use a model of energies.")
    if len(config.heads) > 1:
        raise ConfigError(f"the model has the heads {', '.join(config.heads)}: say which one (macejax.model.heads.select_head).")


def e0s_of(config: ModelConfig, species: Species) -> np.ndarray:
    """Energy of every isolated atom [N] (eV), of a model with one head."""
    return np.asarray(config.e0_table[0], np.float64)[species.index]


def graph_of(species: Species, positions: jax.Array, cell: jax.Array, rows: RowList) -> jraph.GraphsTuple:
    """The batch of THE CONTRACT (macejax/README.md) that a structure and its list are, without labels.

    Args:
      positions: [N, 3] Angstrom, in whatever images.
      cell: [3, 3] Angstrom, rows.
    """
    number = len(species.index)
    size = jnp.abs(jnp.linalg.det(cell))
    count = np.array([number, 0], np.int32)
    own = np.arange(number, dtype=np.int32)
    of_atoms = {} if species.of_atoms is None else {"inputs": species.of_atoms}
    of_structure = {name: jnp.stack([value, jnp.zeros_like(value)]) for name, value in (species.of_structure or {}).items()}
    return jraph.GraphsTuple(
        nodes={
            "positions": settle(rows, positions, cell),
            "species": jnp.asarray(species.index),
            "slot": jnp.asarray(species.slot),
            "graph": np.zeros(number, np.int32),
            "mask": np.ones(number, bool),
            # What a dipole is made of, which nothing here asks for: the energies of a model that has both do not depend on it.
            "charges": jnp.zeros(number, positions.dtype),
            "image": np.zeros((number, 3), np.int32),
            **of_atoms,
        },
        edges={"shift": rows.shift, "mask": rows.mask, "reverse": rows.reverse},
        senders=rows.senders,
        receivers=np.repeat(own, rows.shape.slots),
        globals={
            "cell": jnp.stack([cell, jnp.eye(3, dtype=cell.dtype)]),
            "volume": jnp.stack([size, jnp.ones_like(size)]),
            "mask": np.array([True, False]),
            "species_table": jnp.asarray(species.table),
            "origin": jnp.zeros((2, 3), positions.dtype),
            **({"inputs": of_structure} if of_structure else {}),
        },
        n_node=count,
        n_edge=count * np.int32(rows.shape.slots),
    )


def evaluate(
    site_energy: SiteEnergy, params: Any, species: Species, positions: jax.Array, cell: jax.Array, rows: RowList
) -> tuple[Evaluation, jax.Array]:
    """Energy, forces and strain derivative by one backward pass, from the edges within the cutoff, and the most that an atom has of these.
    Where they are more than `rows.shape.near_slots`, the evaluation lacks some.

    Edge vectors and all sums are in the dtype of the positions, the model in that of its parameters: with float64 positions and float32
    parameters, atoms a long way from the origin lose nothing, and forces sum to zero to rounding of float64.
    """
    graph, degrees = prune(graph_of(species, positions, cell, rows), rows.shape.cutoff, rows.shape.near_slots)
    dtype = jnp.result_type(*jax.tree.leaves(params))

    def total(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        node_energy = energies_of(site_energy(params, vectors.astype(dtype), graph)).astype(positions.dtype)
        return jnp.sum(node_energy), node_energy

    gradient, node_energy = jax.grad(total, has_aux=True)(edge_vectors(graph))
    found = assemble(node_energy, gradient, graph)
    return Evaluation(found.energy[0], found.forces, found.strain_derivative[0]), jnp.max(degrees)
