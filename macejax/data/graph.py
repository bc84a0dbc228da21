"""Structure + cutoff -> one graph: wrapped, centred positions, species and directed edges, still without padding."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macejax.data.edge_file import Edges, edges_on_disk
from macejax.data.inputs import Embedding, head_index, read_inputs, require_whole_charges
from macejax.data.neighbors import symmetric_neighbors, wrap
from macejax.data.species import species_index
from macejax.data.structure import LABELS, Structure, check, volume

AT_ONE_POINT = 1e-3  # Angstrom; atoms that are closer are one atom, written twice


class Graph(NamedTuple):
    """One structure of N atoms with its E directed edges and labels, in numpy. Edges are sorted by receiver."""

    positions: np.ndarray  # [N, 3] float64, Angstrom, wrapped along periodic directions and centred
    species: np.ndarray  # [N] int32, index into the model's elements
    cell: np.ndarray  # [3, 3] float64, Angstrom, rows are lattice vectors
    volume: float  # Angstrom^3, 0 where the cell is singular
    pbc: np.ndarray  # [3] bool
    receivers: np.ndarray  # [E] int32
    senders: np.ndarray  # [E] int32
    shift: np.ndarray  # [E, 3] int32, r = positions[sender] + shift @ cell - positions[receiver]
    reverse: np.ndarray  # [E] int32, place of the edge (j, i, -shift) in this list
    rank: np.ndarray  # [E] int32, place of the edge in its receiver's row
    max_degree: int  # edges of the atom that has most
    energy: float  # eV, E0s taken off; NaN where missing
    forces: np.ndarray | None  # [N, 3] eV/Angstrom
    stress: np.ndarray | None  # [3, 3] eV/Angstrom^3
    virials: np.ndarray | None  # [3, 3] eV
    weight: float
    weights: Mapping[str, float]  # of each of LABELS
    e0: float  # eV, the sum of E0s that was taken off: total energy = interaction energy + e0
    head: int  # index into the model's heads
    inputs: Mapping[str, np.ndarray]  # what else the model reads, [] for the structure, [N] or [N, values] for atoms
    index: int  # type: ignore[assignment]  # position in the data set, -1 where there is none
    source: str
    dipole: np.ndarray | None = None  # [3] e Angstrom or Debye
    polarizability: np.ndarray | None = None  # [3, 3]
    charges: np.ndarray | None = None  # [N] e
    total_charge: float = 0.0  # e
    images: np.ndarray | None = None  # [N, 3] int32, input = positions - images @ cell + origin
    origin: np.ndarray | None = None  # [3] Angstrom, where the centre of the wrapped atoms was


def build_graph(
    structure: Structure,
    elements: Sequence[int],
    cutoff: float,
    e0s: Sequence[Any] | None = None,
    index: int = -1,
    *,
    heads: Sequence[str] = ("Default",),
    embeddings: Sequence[Embedding] = (),
    edges: Edges | None = None,
) -> Graph:
    """The graph of one structure.

    Where only one of stress and virials is labelled and the cell has a volume, the other is derived (virials = -volume * stress) with the
    same weight, so that a loss on either can use both.

    Args:
      structure: what to build.
      elements: atomic numbers that the model knows, ascending.
      cutoff: Angstrom; skin included, if there is one.
      e0s: energy of each isolated atom (eV), in the order of elements, or such a row for each head; None leaves energies as they are.
      index: position of the structure in its data set.
      heads: names of the model's heads, of which the structure's is looked up where there are several.
      embeddings: inputs that the model reads beside the structure, `ModelConfig.joint_embedding`.
      edges: those of the structure, where they are known (`find_edges`).

    Raises:
      DataError: the structure is invalid (see `check`), or has an element or head that the model does not know, or lacks an input.
    """
    structure = check(structure)
    species = species_index(structure.numbers, elements, structure.source)
    positions, images, origin = _centred(structure)
    edges = _edges(positions, structure, cutoff) if edges is None else edges
    head = head_index(structure, heads)
    e0 = 0.0 if e0s is None else float(np.atleast_2d(np.asarray(e0s, np.float64))[head, species].sum())
    return _graph(positions, species, structure, edges, e0, index)._replace(
        head=head, inputs=read_inputs(structure, embeddings), images=images, origin=origin
    )


def build_graphs(
    structures: Sequence[Structure],
    elements: Sequence[int],
    cutoff: float,
    e0s: Sequence[Any] | None = None,
    edge_folder: str | Path | None = None,
    **options: Any,
) -> list[Graph]:
    """`build_graph` of every structure of a data set, each with its position in it as `index`. Warns of atoms that are there twice.

    With `edge_folder` their edges are in a file there, not in memory (`macejax.data.edge_file`).
    """
    edges: Sequence[Edges | None] = [None] * len(structures)
    if edge_folder is not None:
        edges = edges_on_disk(edge_folder, structures, cutoff, lambda structure: find_edges(structure, cutoff))
    graphs = [
        build_graph(structure, elements, cutoff, e0s, index, edges=own, **options)
        for index, (structure, own) in enumerate(zip(structures, edges, strict=True))
    ]
    _warn_of_atoms_at_one_point(graphs)
    return graphs


def model_graphs(structures: Sequence[Structure], config: Any) -> list[Graph]:
    """Graphs of a data set as a model takes them: `build_graphs` with everything that its ModelConfig says."""
    if config.has_moments:
        require_whole_charges(structures)
    return build_graphs(structures, config.elements, config.cutoff, config.e0_table, heads=config.heads, embeddings=config.joint_embedding)


def find_edges(structure: Structure, cutoff: float) -> Edges:
    """The edges of a structure up to a cutoff (Angstrom).

    Raises:
      DataError: the structure is invalid.
    """
    structure = check(structure)
    return _edges(_centred(structure)[0], structure, cutoff)


def squared_lengths(graph: Graph) -> np.ndarray:
    """Of every edge [E] (Angstrom^2)."""
    vectors = graph.positions[graph.senders] + graph.shift @ graph.cell - graph.positions[graph.receivers]
    return np.einsum("ij,ij->i", vectors, vectors)


def degree_within(graph: Graph, cutoff: float) -> int:
    """The most edges up to a cutoff (Angstrom) that an atom has."""
    return int(np.bincount(graph.receivers[squared_lengths(graph) <= cutoff**2]).max(initial=0))


def rank_in_row(receivers: np.ndarray) -> np.ndarray:
    """Place [E] int32 of every edge in the row of its receiver, the edges being sorted by receiver."""
    num_edges = len(receivers)
    starts = np.searchsorted(receivers, receivers, side="left")
    return (np.arange(num_edges) - starts).astype(np.int32)


def _centred(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [N, 3] in the cell about their centre, images [N, 3] and that centre [3]."""
    positions, images = wrap(structure.positions, structure.cell, structure.pbc)
    origin = positions.mean(axis=0)
    return positions - origin, images, origin


def _edges(positions: np.ndarray, structure: Structure, cutoff: float) -> Edges:
    receivers, senders, shift, reverse = symmetric_neighbors(positions, structure.cell, structure.pbc, cutoff, structure.source)
    return Edges(receivers, senders, shift, reverse, rank_in_row(receivers))


def _warn_of_atoms_at_one_point(graphs: Sequence[Graph]) -> None:
    """One warning for each file, with the number of its structures that have two atoms, or images of atoms, at one point."""
    found: dict[str, list[str]] = {}
    for graph in graphs:
        close = np.flatnonzero(squared_lengths(graph) < AT_ONE_POINT**2)
        if len(close):
            source = graph.source or "structure"
            pair = f"{source}, atoms {graph.receivers[close[0]]} and {graph.senders[close[0]]}"
            found.setdefault(source.rsplit(":frame ", 1)[0], []).append(pair)
    for file, pairs in found.items():
        warnings.warn(
            f"{file}: in {len(pairs)} of the structures two atoms are less than {AT_ONE_POINT:g} Angstrom apart, first in {pairs[0]} "
            f"(counted from 0). Is an atom there twice?",
            stacklevel=3,
        )


def _graph(positions: np.ndarray, species: np.ndarray, structure: Structure, edges: Edges, e0: float, index: int) -> Graph:
    size = volume(structure.cell)
    stress, virials, weights = _both_stresses(structure, size)
    return Graph(
        positions=positions,
        species=species,
        cell=structure.cell,
        volume=size,
        pbc=structure.pbc,
        **edges._asdict(),
        max_degree=int(edges.rank.max(initial=-1)) + 1,
        energy=structure.energy - e0,
        forces=structure.forces,
        stress=stress,
        virials=virials,
        weight=structure.weight,
        weights=weights,
        e0=e0,
        head=0,
        inputs={},
        index=index,
        source=structure.source,
        dipole=structure.dipole,
        polarizability=structure.polarizability,
        charges=structure.charges,
        total_charge=structure.total_charge,
    )


def _both_stresses(structure: Structure, size: float) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, float]]:
    stress, virials = structure.stress, structure.virials
    weights = {name: structure.weights.get(name, 1.0) for name in LABELS}
    if size > 0 and stress is None and virials is not None:
        return -virials / size, virials, weights | {"stress": weights["virials"]}
    if size > 0 and virials is None and stress is not None:
        return stress, -size * stress, weights | {"virials": weights["stress"]}
    return stress, virials, weights
