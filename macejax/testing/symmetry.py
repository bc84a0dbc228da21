"""Rows 4, 5, 6 and 15: rotation, inversion, translation, permutation, and the choice of the cell."""

from __future__ import annotations

import jraph
import numpy as np

from macejax.data.batch import batch, round_slots
from macejax.data.graph import Graph
from macejax.data.structure import Structure
from macejax.testing import limits
from macejax.testing.errors import (
    Case,
    agree,
    compare,
    energy_per_atom,
    energy_relative,
    force_absolute,
    force_over_rms,
    largest,
    strain_over_largest,
    strain_relative,
)
from macejax.testing.evaluate import evaluate, evaluate_batch, exact_capacity, expected, graphs_of, near_origin, pack, params_of, select
from macejax.testing.report import Check, worst_of
from macejax.testing.subject import Subject
from macejax.testing.transform import (
    displaced,
    permuted,
    random_combination,
    random_rotation,
    recombined,
    rotated,
    shifted_by_cells,
)

ROTATIONS = 10  # half of them improper
FEW_ATOMS = 8  # of structures whose features are turned
SOME = 3  # rotations of structures of more atoms than MANY_ATOMS
MANY_ATOMS = 32
CELLS = 5  # atoms are moved by up to so many cells


def rotation(subject: Subject) -> list[Check]:
    """Row 4: under O(3), proper or not, and translation E is invariant, F a vector, dE/d(strain) a tensor; features turn too.

    Under SO(3) where the potential has no parity.
    """
    rng = subject.rng(4)
    results = expected(subject, subject.structures)
    matrices = [random_rotation(rng, improper=subject.has_parity and i % 2 == 0) for i in range(ROTATIONS)]
    cases = []
    for name, structure in subject.structures.items():
        known, centred = results[name], near_origin(subject, structure)
        for matrix in matrices if len(structure.numbers) <= MANY_ATOMS else matrices[:SOME]:
            turned = known._replace(forces=known.forces @ matrix.T, strain_derivative=matrix @ known.strain_derivative @ matrix.T)
            cases.append(Case(name, displaced(rotated(centred, matrix), rng.uniform(-10, 10, 3)), turned))
    found = list(zip(cases, evaluate(subject, [case.structure for case in cases]), strict=True))
    group = "O(3)" if subject.has_parity else "SO(3)"
    of_strain = strain_relative if subject.is_double else strain_over_largest
    promises = [
        (f"energy is invariant under {group}, per atom", limits.ROTATION_ENERGY, energy_per_atom if subject.is_double else energy_relative),
        (f"forces turn under {group}, in eV/A", limits.ROTATION_FORCE_ABSOLUTE, force_absolute),
        (f"forces turn under {group}, in rms forces", limits.ROTATION_FORCE_RELATIVE, force_over_rms),
        (f"dE/d(strain) turns under {group}, relative", limits.ROTATION_STRAIN, of_strain),
    ]
    checks = [
        worst_of(4, promise, subject.limit(limit), [(error(result, case.expected), case.name) for case, result in found])
        for promise, limit, error in promises
        if subject.limit(limit) is not None
    ]
    return checks + ([_features(subject, matrices)] if subject.compiled.features else [])


def permutation(subject: Subject) -> list[Check]:
    """Row 5: the order of atoms, of edges in a row and of structures in a batch changes nothing."""
    rng = subject.rng(5)
    structures = subject.structures
    results = expected(subject, structures)
    cases = []
    for name, structure in structures.items():
        order = rng.permutation(len(structure.numbers))
        result = results[name]
        expectation = result._replace(forces=result.forces[order], force_resolution=result.force_resolution[order])
        cases.append(Case(name, permuted(structure, order), expectation))
    checks = agree(subject, 5, "with the atoms permuted", limits.PERMUTATION, cases)
    shuffled: list = []
    reordered: list = []
    names, graphs = list(structures), graphs_of(subject, structures.values())
    for members, capacity in pack(subject, graphs):
        graph = batch([graphs[i] for i in members], capacity, dtype=subject.dtype)
        known = [results[names[i]] for i in members]
        labels = [names[i] for i in members]
        shuffled += zip(labels, evaluate_batch(subject, shuffled_slots(graph, rng)), known, strict=True)
        order = rng.permutation(len(members))
        graph = batch([graphs[members[i]] for i in order], capacity, dtype=subject.dtype)
        reordered += zip([labels[i] for i in order], evaluate_batch(subject, graph), [known[i] for i in order], strict=True)
    checks += compare(subject, 5, "with the edges of each row permuted", limits.PERMUTATION, shuffled)
    return checks + compare(subject, 5, "with the structures of a batch permuted", limits.PERMUTATION, reordered)


def lattice_translation(subject: Subject) -> list[Check]:
    """Row 6: moving single atoms by whole cells changes nothing, whether they are wrapped again or not."""
    rng = subject.rng(6)
    structures = select(subject, lambda structure: bool(structure.pbc.any()))
    results = expected(subject, structures)
    cells = {name: rng.integers(-CELLS, CELLS + 1, size=(len(s.numbers), 3)) * s.pbc for name, s in structures.items()}
    cases = [Case(name, shifted_by_cells(structure, cells[name]), results[name]) for name, structure in structures.items()]
    checks = agree(subject, 6, "with atoms moved by whole cells", limits.LATTICE_TRANSLATION, cases)
    names, graphs = list(structures), graphs_of(subject, structures.values())
    moved = graphs_of(subject, [case.structure for case in cases])
    twins = [(edge_difference(graph, other), name) for graph, other, name in zip(graphs, moved, names, strict=True)]
    checks.append(worst_of(6, "edge vectors with atoms moved by whole cells, in A", subject.limit(limits.EDGE_SETS), twins))
    if subject.is_double:  # in float32 positions far from the origin are imprecise: the contract has them wrapped before the cast
        unwrapped = [_unwrapped(graph, cells[name]) for graph, name in zip(graphs, names, strict=True)]
        found = []
        for members, capacity in pack(subject, unwrapped):
            batched = evaluate_batch(subject, batch([unwrapped[i] for i in members], capacity, dtype=subject.dtype))
            found += [(names[i], result, results[names[i]]) for i, result in zip(members, batched, strict=True)]
        checks += compare(subject, 6, "with atoms left outside the cell", limits.LATTICE_TRANSLATION, found)
    return checks


def equivalent_cells(subject: Subject) -> list[Check]:
    """Row 15: the Minkowski-reduced cell, a skewed one and a left-handed one of the same crystal give the same."""
    from ase.geometry import minkowski_reduce

    rng = subject.rng(15)
    structures = select(subject, lambda structure: bool(structure.pbc.any()))
    results = expected(subject, structures)
    cases, twins = [], []
    for name, structure in structures.items():
        _, reduction = minkowski_reduce(structure.cell, pbc=structure.pbc)
        matrices = [reduction, *(random_combination(rng, structure.pbc, left_handed) for left_handed in (False, True))]
        cases += [Case(name, recombined(structure, matrix), results[name]) for matrix in matrices]
    checks = agree(subject, 15, "in another cell of the same lattice", limits.EQUIVALENT_CELL, cases)
    for case in cases:
        graph, other = graphs_of(subject, [structures[case.name], case.structure])
        twins.append((edge_difference(graph, other), case.name))
    return [*checks, worst_of(15, "edge vectors in another cell of the same lattice, in A", subject.limit(limits.EDGE_SETS), twins)]


def edge_difference(graph: Graph, other: Graph) -> float:
    """Largest distance (Angstrom) of an edge vector to its twin in another list of the same atoms; infinite where numbers differ."""
    if len(graph.receivers) != len(other.receivers):
        return np.inf
    worst = 0.0
    first, second = _edge_vectors(graph), _edge_vectors(other)
    for atom in range(len(graph.species)):
        mine, yours = graph.receivers == atom, other.receivers == atom
        if mine.sum() != yours.sum():
            return np.inf
        if mine.any():
            apart = np.linalg.norm(first[mine][:, None] - second[yours], axis=-1)
            apart = np.where(graph.senders[mine][:, None] == other.senders[yours], apart, np.inf)
            worst = max(worst, apart.min(axis=0).max(), apart.min(axis=1).max())
    return float(worst)


def shuffled_slots(graph: jraph.GraphsTuple, rng: np.random.Generator) -> jraph.GraphsTuple:
    """The batch with the slots of every row in random order, padding among them."""
    nodes = len(graph.nodes["species"])
    slots = len(graph.senders) // nodes
    order = (rng.permuted(np.tile(np.arange(slots), (nodes, 1)), axis=1) + slots * np.arange(nodes)[:, None]).reshape(-1)
    place = np.argsort(order).astype(np.int32)  # where each slot has gone
    edges = {key: value[order] for key, value in graph.edges.items()}
    return graph._replace(senders=graph.senders[order], edges=edges | {"reverse": place[edges["reverse"]]})


def _edge_vectors(graph: Graph) -> np.ndarray:
    return graph.positions[graph.senders] + graph.shift @ graph.cell - graph.positions[graph.receivers]


def _unwrapped(graph: Graph, cells: np.ndarray) -> Graph:
    """Atoms moved by whole cells [N, 3], and the shifts of their edges so that no edge vector changes."""
    shift = graph.shift - cells[graph.senders] + cells[graph.receivers]
    return graph._replace(positions=graph.positions + cells @ graph.cell, shift=shift.astype(np.int32))


def _features(subject: Subject, matrices: list[np.ndarray]) -> Check:
    from e3nn_jax import Irreps

    structures = select(subject, lambda structure: len(structure.numbers) <= FEW_ATOMS)
    known = _layers(subject, list(structures.values()), np.float64)
    # Of an atom without neighbours all of them may be 0.
    sizes = [max(largest(layers[i]) for layers in known) or 1.0 for i in range(len(subject.feature_irreps))]
    errors = []
    for matrix in matrices:
        actions = [np.asarray(Irreps(irreps).D_from_matrix(matrix)) for irreps in subject.feature_irreps]
        turned = _layers(subject, [rotated(structure, matrix) for structure in structures.values()], subject.dtype)
        for name, layers, originals in zip(structures, turned, known, strict=True):
            for action, layer, original, size in zip(actions, layers, originals, sizes, strict=True):
                errors.append((largest(layer - np.einsum("ab,nbk->nak", action, original)) / size, name))
    return worst_of(4, "features turn as their irreps, relative", subject.limit(limits.ROTATION_FEATURES), errors)


def _layers(subject: Subject, structures: list[Structure], dtype: type) -> list[list[np.ndarray]]:
    """Features [n, D, K] of every layer of every structure, real atoms only."""
    graphs = graphs_of(subject, structures)
    need = exact_capacity(subject, graphs)
    graph = batch(graphs, need._replace(slots=round_slots(1.2 * need.slots)), dtype=dtype)  # a pair at the cutoff may come or go in turning
    layers = [np.asarray(x, dtype=np.float64) for x in subject.compiled.features(params_of(subject, dtype), graph)]
    if len(layers) != len(subject.feature_irreps):
        raise ValueError(f"features returned {len(layers)} arrays, but feature_irreps names {len(subject.feature_irreps)}.")
    ends = np.cumsum([len(graph.species) for graph in graphs])
    return [[layer[end - len(graph.species) : end] for layer in layers] for graph, end in zip(graphs, ends, strict=True)]
