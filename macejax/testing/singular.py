"""Rows 18 and 19: coincident atoms, and what is not a number in one structure of a batch."""

from __future__ import annotations

import jraph
import numpy as np

from macejax.data.batch import Capacity, batch
from macejax.data.structure import Structure
from macejax.testing import limits
from macejax.testing.evaluate import evaluate, evaluate_batch, graphs_of, pack
from macejax.testing.locality import few
from macejax.testing.report import Check, worst_of
from macejax.testing.structures import bond_length
from macejax.testing.subject import Subject

DISTANCES = (0.0, 1e-8, 0.1)  # Angstrom


def coincident_atoms(subject: Subject) -> list[Check]:
    """Row 18: value to third derivative are finite at r = 0, 1e-8 and 0.1 A, and nothing reaches the rest of the batch."""
    length = bond_length(subject.elements, subject.cutoff)
    regular, *close = ([_trimer(subject, distance, length), _trimer(subject, length, length)] for distance in (length, *DISTANCES))
    reference, *found = (_derivatives(subject, structures) for structures in (regular, *close))
    finite, alike = [], []
    for distance, derivatives in zip(DISTANCES, found, strict=True):
        name = f"two atoms at {distance:g} A"
        finite.append((sum(np.count_nonzero(~np.isfinite(x)) for pair in derivatives for x in pair), name))
        alike.append((sum(np.count_nonzero(x != y) for x, y in zip(derivatives[1], reference[1], strict=True)), name))
    for name, result in zip(subject.coincident, evaluate(subject, subject.coincident.values()), strict=True):
        finite.append((sum(np.count_nonzero(~np.isfinite(x)) for x in result[:4]), name))
    none = subject.limit(limits.VIOLATIONS)
    return [
        worst_of(18, "values and derivatives to third order that are not finite", none, finite),
        worst_of(18, "numbers changed in another structure of the batch", none, alike),
    ]


def not_a_number(subject: Subject) -> list[Check]:
    """Row 19: NaN or infinity in one structure leaves the others bit-identical, and a NaN is never replaced by a number."""
    structures = few(subject)
    names, graphs = list(structures), graphs_of(subject, structures.values())
    shape = max((shape for _, shape in pack(subject, graphs)), key=lambda shape: shape.slots)
    graph = batch(graphs, shape, dtype=subject.dtype)
    clean = evaluate_batch(subject, graph)
    changed, hidden = [], []
    for k, name in enumerate(names):
        for value in (np.nan, np.inf):
            for field in ("positions", "cell"):
                results = evaluate_batch(subject, _spoilt(graph, k, field, value))
                others = [i for i in range(len(names)) if i != k]
                count = sum(np.count_nonzero(~_identical(x, y)) for i in others for x, y in zip(results[i], clean[i], strict=True))
                changed.append((count, f"{name} with {value} in {field}"))
                if field == "positions" and np.isnan(value) and graphs[k].max_degree:
                    hidden.append((np.isfinite(results[k].energy) + np.isfinite(results[k].forces).all(), name))
    none = subject.limit(limits.VIOLATIONS)
    return [
        worst_of(19, "numbers changed by what is not finite in another structure", none, changed),
        worst_of(19, "results that are finite though positions are NaN", none, hidden),
    ]


def _derivatives(subject: Subject, structures: list[Structure]) -> list[list[np.ndarray]]:
    """Energy, forces and their first and second derivative along a random direction, of each trimer of a batch.

    The first is the Hessian times the direction: an entry that is not finite cannot hide in it.
    """
    graphs = graphs_of(subject, structures)
    capacity = Capacity(nodes=7, slots=4, graphs=3, species=len(subject.elements))
    graph = batch(graphs, capacity, dtype=subject.dtype)
    direction = subject.rng(18).normal(size=(capacity.nodes, 3)).astype(subject.dtype)
    second, third = (np.asarray(x) for x in subject.compiled.along(subject.params, graph, direction))
    ((_, shape),) = pack(subject, graphs)
    results = evaluate_batch(subject, batch(graphs, shape, dtype=subject.dtype))
    atoms = [slice(0, 3), slice(3, 6)]
    return [[np.asarray(r.energy), r.forces, second[own], third[own]] for r, own in zip(results, atoms, strict=True)]


def _trimer(subject: Subject, distance: float, length: float) -> Structure:
    """Two atoms at a distance and a third beside them at a bond length."""
    positions = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0], [0.3 * length, length, 0.2 * length]])
    return Structure(numbers=np.resize(np.asarray(subject.elements), 3), positions=positions)


def _spoilt(graph: jraph.GraphsTuple, k: int, field: str, value: float) -> jraph.GraphsTuple:
    """The batch with one coordinate of structure k, or one entry of its cell, replaced by a value."""
    if field == "cell":
        cell = graph.globals["cell"].copy()
        cell[k, 0, 0] = value
        return graph._replace(globals={**graph.globals, "cell": cell})
    positions = graph.nodes["positions"].copy()
    positions[int(np.argmax(graph.nodes["graph"] == k)), 0] = value
    return graph._replace(nodes={**graph.nodes, "positions": positions})


def _identical(x: object, y: object) -> np.ndarray:
    """Equal to the last bit; NaN where there was NaN."""
    x, y = np.asarray(x), np.asarray(y)
    return (x == y) | (np.isnan(x) & np.isnan(y))
