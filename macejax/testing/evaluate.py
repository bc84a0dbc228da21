"""Structures in, results out, in few batches of few shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jraph
import numpy as np

from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.graph import Graph, build_graph
from macejax.data.structure import Structure
from macejax.potential.predict import Prediction
from macejax.testing.limits import EPSILONS
from macejax.testing.subject import Result, Scaled, Subject

ROW_LENGTHS = (16, 64, 384, 1536, 6144)  # neighbour slots of the compiled shapes
COMMON = 64  # slots; shorter rows are not compiled for, unless no structure needs more
ATOMS = 128  # of a batch, unless rows are short or one structure needs more
SLOTS = 8192  # of a batch of short rows


def select(subject: Subject, suits: Callable[[Structure], bool]) -> dict[str, Structure]:
    """The structures that suit a row; the default ones where there are none, so that no row is empty."""
    chosen = {name: structure for name, structure in subject.structures.items() if suits(structure)}
    return chosen or {name: structure for name, structure in subject.defaults.items() if suits(structure)}


def expected(subject: Subject, structures: Mapping[str, Structure]) -> dict[str, Result]:
    """Float64 results of named structures, each computed once."""
    missing = {name: structure for name, structure in structures.items() if name not in subject.expected}
    subject.expected.update(zip(missing, evaluate(subject, missing.values(), dtype=np.float64), strict=True))
    return {name: subject.expected[name] for name in structures}


def evaluate(subject: Subject, structures: Iterable[Structure], *, dtype: Any = None, cutoff: float | None = None) -> list[Result]:
    """Results of structures in the dtype of the check (or `dtype`), their neighbour lists reaching to `cutoff`."""
    return evaluate_graphs(subject, graphs_of(subject, structures, cutoff), dtype)


def graphs_of(subject: Subject, structures: Iterable[Structure], cutoff: float | None = None) -> list[Graph]:
    """Unpadded graphs, in float64."""
    return [build_graph(structure, subject.elements, cutoff or subject.cutoff) for structure in structures]


def near_origin(subject: Subject, structure: Structure) -> Structure:
    """The structure wrapped and centred, so that differences and rotations do not drown in the rounding of large coordinates."""
    return structure._replace(positions=graphs_of(subject, [structure])[0].positions)


def evaluate_graphs(subject: Subject, graphs: Sequence[Graph], dtype: Any = None) -> list[Result]:
    """Results of graphs, many to a batch."""
    dtype = np.dtype(dtype or subject.dtype)
    results: dict[int, Result] = {}
    for members, capacity in pack(subject, graphs):
        graph = batch([graphs[i] for i in members], capacity, dtype=dtype)
        results.update(zip(members, evaluate_batch(subject, graph, dtype), strict=True))
    return [results[i] for i in range(len(graphs))]


def evaluate_batch(subject: Subject, graph: jraph.GraphsTuple, dtype: Any = None) -> list[Result]:
    """Results of the real structures of a batch."""
    params = params_of(subject, dtype)
    prediction, force_terms, strain_terms = subject.compiled.predict(params, graph)
    share = EPSILONS * np.finfo(subject.dtype).eps
    return unbatch(prediction, share * np.asarray(force_terms), share * np.asarray(strain_terms), graph)


def params_of(subject: Subject, dtype: Any = None) -> Scaled:
    """The parameters that go with a dtype."""
    return subject.params if np.dtype(dtype or subject.dtype) == subject.dtype else subject.reference_params


def unbatch(prediction: Prediction, force_resolution: np.ndarray, strain_resolution: np.ndarray, graph: jraph.GraphsTuple) -> list[Result]:
    """A batch's prediction, structure by structure."""
    energy, node_energy, forces, strain, stress = (np.asarray(x, dtype=np.float64) for x in prediction[:5])
    ends = np.cumsum(graph.n_node)
    return [
        Result(
            energy=float(energy[g]),
            node_energy=node_energy[end - n : end],
            forces=forces[end - n : end],
            strain_derivative=strain[g],
            stress=stress[g],
            force_resolution=force_resolution[end - n : end],
            strain_resolution=float(strain_resolution[g]),
        )
        for g, (n, end) in enumerate(zip(graph.n_node, ends, strict=True))
        if graph.globals["mask"][g]
    ]


def pack(subject: Subject, graphs: Sequence[Graph]) -> list[tuple[list[int], Capacity]]:
    """Batches as (indices of graphs, capacity): graphs of like row length together, in order, at the capacity that this length has got."""
    shortest = min(subject.max_degree, COMMON)
    by_length: dict[int, list[int]] = {}
    for i, graph in enumerate(graphs):
        by_length.setdefault(next(length for length in ROW_LENGTHS if length >= max(graph.max_degree, shortest)), []).append(i)
    batches: list[tuple[list[int], Capacity]] = []
    for slots, indices in by_length.items():
        capacity = grown(subject, slots, max(len(graphs[i].species) for i in indices))
        members: list[int] = []
        atoms = 0
        for i in indices:
            count = len(graphs[i].species)
            if members and (atoms + count >= capacity.nodes or len(members) + 1 >= capacity.graphs):
                batches.append((members, capacity))
                members, atoms = [], 0
            members.append(i)
            atoms += count
        batches.append((members, capacity))
    return batches


def grown(subject: Subject, slots: int, largest: int) -> Capacity:
    """The capacity for rows of this length, enlarged and remembered where the largest structure does not fit."""
    known = subject.capacities.get(slots)
    if known is None or known.nodes <= largest:
        nodes = max(SLOTS // slots, ATOMS, 1 << int(largest).bit_length())
        known = Capacity(nodes=nodes, slots=slots, graphs=min(nodes, 128) + 1, species=len(subject.elements))
        subject.capacities[slots] = known
    return known


def exact_capacity(subject: Subject, graphs: Sequence[Graph], factor: float = 1.0) -> Capacity:
    """Capacity that holds the graphs in one batch, with `factor` times as much of everything, and at least one atom of padding."""
    need = capacity_for(graphs, factor)
    return need._replace(nodes=need.nodes + 1, graphs=int(np.ceil(factor * len(graphs))) + 1, species=len(subject.elements))
