"""The potential under test and how it is evaluated: structures in, results out, with few compiled shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jraph
import numpy as np

from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.graph import Graph, build_graph
from macejax.data.structure import Structure
from macejax.model.geometry import edge_vectors
from macejax.potential.predict import Prediction, SiteEnergy, predict
from macejax.testing.limits import COINCIDENT, Limit

ROW_LENGTHS = (16, 64, 192, 384, 768, 1536, 6144)  # neighbour slots of the compiled shapes
SLOTS = 8192  # of a batch, unless one structure needs more


class Result(NamedTuple):
    """What the potential says of one structure of n atoms; numpy float64."""

    energy: float  # eV
    node_energy: np.ndarray  # [n] eV
    forces: np.ndarray  # [n, 3] eV/Angstrom
    strain_derivative: np.ndarray  # [3, 3] eV
    stress: np.ndarray  # [3, 3] eV/Angstrom^3


class Subject(NamedTuple):
    """A potential, its parameters in the dtype of the check, and what the rows share."""

    site_energy: SiteEnergy
    params: Any  # in `dtype`
    reference_params: Any  # in float64
    elements: tuple[int, ...]
    cutoff: float  # Angstrom
    reach: float  # Angstrom, how far an atom's energy sees
    dtype: np.dtype
    structures: Mapping[str, Structure]  # without labels; every pair of atoms has a direction
    coincident: Mapping[str, Structure]  # the others: a rounding error turns their pairs, so forces mean nothing
    defaults: Mapping[str, Structure]  # for rows that none of `structures` suits
    expected: dict[str, Result]  # float64 results, by name, of every structure asked for so far
    predict: Callable[..., Prediction]  # (params, batch), jitted
    features: Callable[..., Sequence[jax.Array]] | None  # (params, batch) -> [N, D, K] per layer, jitted
    feature_irreps: tuple[str, ...]
    atom_energies: Mapping[int, float] | None  # eV, by atomic number
    capacities: dict[int, Capacity]  # by row length; they grow when a structure needs it
    seed: int

    def rng(self, row: int) -> np.random.Generator:
        """Random numbers of one row: the same whichever other rows run."""
        return np.random.default_rng([self.seed, row])

    def limit(self, limit: Limit) -> float | None:
        """The threshold in the dtype of the check."""
        return limit.float64 if self.dtype == np.float64 else limit.float32

    @property
    def is_double(self) -> bool:
        """True where the check runs in float64."""
        return self.dtype == np.float64


def select(subject: Subject, suits: Callable[[Structure], bool]) -> dict[str, Structure]:
    """The structures that a row suits; the default ones where there are none, so that no row is empty."""
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


def evaluate_graphs(subject: Subject, graphs: Sequence[Graph], dtype: Any = None) -> list[Result]:
    """Results of graphs, many to a batch."""
    dtype = np.dtype(dtype or subject.dtype)
    results: list[Result | None] = [None] * len(graphs)
    for members, capacity in pack(subject, graphs):
        chosen = [graphs[i] for i in members]
        for i, result in zip(members, evaluate_batch(subject, batch(chosen, capacity, dtype=dtype), dtype), strict=True):
            results[i] = result
    return results


def evaluate_batch(subject: Subject, graph: jraph.GraphsTuple, dtype: Any = None) -> list[Result]:
    """Results of the real structures of a batch."""
    return unbatch(subject.predict(params_of(subject, dtype), graph), graph)


def params_of(subject: Subject, dtype: Any = None) -> Any:
    """The parameters that go with a dtype."""
    return subject.params if np.dtype(dtype or subject.dtype) == subject.dtype else subject.reference_params


def unbatch(prediction: Prediction, graph: jraph.GraphsTuple) -> list[Result]:
    """A batch's prediction, structure by structure."""
    energy, node_energy, forces, strain, stress = (np.asarray(x, dtype=np.float64) for x in prediction)
    ends = np.cumsum(graph.n_node)
    return [
        Result(float(energy[g]), node_energy[end - n : end], forces[end - n : end], strain[g], stress[g])
        for g, (n, end) in enumerate(zip(graph.n_node, ends, strict=True))
        if graph.globals["mask"][g]
    ]


def near_origin(subject: Subject, structure: Structure) -> Structure:
    """The structure wrapped and centred, so that differences and rotations do not drown in the rounding of large coordinates."""
    return structure._replace(positions=graphs_of(subject, [structure])[0].positions)


def edge_lengths(graph: Graph) -> np.ndarray:
    """Length [E] of every edge (Angstrom)."""
    return np.linalg.norm(graph.positions[graph.senders] + graph.shift @ graph.cell - graph.positions[graph.receivers], axis=1)


def closest_pair(graph: Graph) -> float:
    """Shortest edge (Angstrom), infinite where there is none."""
    return float(np.min(edge_lengths(graph), initial=np.inf))


def pack(subject: Subject, graphs: Sequence[Graph]) -> list[tuple[list[int], Capacity]]:
    """Batches as (indices of graphs, capacity): graphs of like row length together, in order, at the capacity that this length has got."""
    by_length: dict[int, list[int]] = {}
    for i, graph in enumerate(graphs):
        by_length.setdefault(row_length(graph), []).append(i)
    batches = []
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
        nodes = max(SLOTS // slots, 1 << int(largest).bit_length())
        known = Capacity(nodes=nodes, slots=slots, graphs=min(nodes, 128) + 1, species=len(subject.elements))
        subject.capacities[slots] = known
    return known


def row_length(graph: Graph) -> int:
    """The shortest compiled row that holds the neighbours of every atom."""
    return next(length for length in ROW_LENGTHS if length >= graph.max_degree)


def exact_capacity(subject: Subject, graphs: Sequence[Graph], factor: float = 1.0) -> Capacity:
    """Capacity that holds the graphs in one batch, with `factor` times as much of everything."""
    need = capacity_for(graphs, factor)
    return need._replace(nodes=need.nodes + 1, graphs=int(np.ceil(factor * len(graphs))) + 1, species=len(subject.elements))


def cast(params: Any, dtype: Any) -> Any:
    """Parameters with every floating-point array in a dtype."""
    return jax.tree.map(lambda x: x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x, jax.tree.map(jax.numpy.asarray, params))


def subject_of(
    site_energy: SiteEnergy,
    params: Any,
    config: Any,
    *,
    structures: Mapping[str, Structure],
    defaults: Mapping[str, Structure],
    dtype: Any,
    reference_params: Any,
    features: Callable[..., Sequence[jax.Array]] | None,
    feature_irreps: Sequence[str],
    atom_energies: Mapping[int, float] | None,
    seed: int,
) -> Subject:
    """Casts the parameters, so that float64 computes with the very weights of float32, and jits what the rows evaluate."""
    dtype = np.dtype(dtype)
    elements = tuple(int(z) for z in config.elements)
    regular = {name: s for name, s in structures.items() if closest_pair(build_graph(s, elements, config.cutoff)) > COINCIDENT}
    params = cast(params, dtype)
    return Subject(
        site_energy=site_energy,
        params=params,
        reference_params=cast(params if reference_params is None else reference_params, np.float64),
        elements=elements,
        cutoff=float(config.cutoff),
        reach=float(config.cutoff) * int(getattr(config, "num_interactions", 1)),
        dtype=dtype,
        structures=regular,
        coincident={name: structure for name, structure in structures.items() if name not in regular},
        defaults=defaults,
        expected={},
        predict=jax.jit(lambda params, graph: predict(site_energy, params, graph)),
        features=None if features is None else jax.jit(lambda params, graph: features(params, edge_vectors(graph), graph)),
        feature_irreps=tuple(feature_irreps),
        atom_energies=atom_energies,
        capacities={},
        seed=seed,
    )
