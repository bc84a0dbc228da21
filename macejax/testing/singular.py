"""Rows 18 and 19: coincident atoms, and what is not a number in one structure of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.data.batch import batch
from macejax.data.structure import Structure
from macejax.potential.hessian import hessian
from macejax.potential.predict import Prediction, predict
from macejax.testing import limits
from macejax.testing.locality import few
from macejax.testing.report import Check, worst_of
from macejax.testing.structures import bond_length
from macejax.testing.subject import Subject, evaluate, evaluate_batch, exact_capacity, graphs_of

DISTANCES = (0.0, 1e-8, 0.1)  # Angstrom


def coincident_atoms(subject: Subject) -> list[Check]:
    """Row 18: value to third derivative are finite at r = 0, 1e-8 and 0.1 A, and nothing reaches the rest of the batch."""
    length = bond_length(subject.elements, subject.cutoff)
    companion = _trimer(subject, length, length)
    regular, *close = (graphs_of(subject, [_trimer(subject, distance, length), companion]) for distance in (length, *DISTANCES))
    capacity = exact_capacity(subject, regular)
    compiled = jax.jit(lambda params, graph, direction: _derivatives(subject, params, graph, direction))
    direction = subject.rng(18).normal(size=(capacity.nodes, 3)).astype(subject.dtype)
    derivatives = [compiled(subject.params, batch(graphs, capacity, dtype=subject.dtype), direction) for graphs in (regular, *close)]
    atoms = slice(len(regular[0].species), 2 * len(regular[0].species))  # of the companion
    finite, alike = [], []
    for distance, found in zip(DISTANCES, derivatives[1:], strict=True):
        name = f"two atoms at {distance:g} A"
        finite.append((sum(np.count_nonzero(~np.isfinite(x)) for x in jax.tree.leaves(found)), name))
        prediction, *higher = found
        reference, *reference_higher = derivatives[0]
        pairs = [(prediction.energy[1], reference.energy[1]), (prediction.forces[atoms], reference.forces[atoms])]
        pairs += [(x[atoms], y[atoms]) for x, y in zip(higher, reference_higher, strict=True)]
        alike.append((sum(np.count_nonzero(~_identical(x, y)) for x, y in pairs), name))
    for name, result in zip(subject.coincident, evaluate(subject, subject.coincident.values()), strict=True):
        finite.append((sum(np.count_nonzero(~np.isfinite(x)) for x in result[:4]), name))
    none = subject.limit(limits.VIOLATIONS)
    return [
        worst_of(18, "values and derivatives to third order that are not finite", none, finite),
        worst_of(18, "numbers changed in another structure of the batch", none, alike),
    ]


def not_a_number(subject: Subject) -> list[Check]:
    """Row 19: NaN or infinity in one structure leaves the others bit-identical, and a NaN is never replaced by a number."""
    names, graphs = few(subject)
    graph = batch(graphs, exact_capacity(subject, graphs), dtype=subject.dtype)
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


def _derivatives(
    subject: Subject, params: object, graph: jraph.GraphsTuple, direction: jax.Array
) -> tuple[Prediction, jax.Array, jax.Array]:
    """Prediction without stress, Hessian [N, 3, N, 3] and the second derivative of the forces [N, 3] along a direction [N, 3]."""

    def forces(positions: jax.Array) -> jax.Array:
        return predict(subject.site_energy, params, graph._replace(nodes={**graph.nodes, "positions": positions})).forces

    def along(positions: jax.Array) -> jax.Array:
        return jax.jvp(forces, (positions,), (direction,))[1]

    prediction = predict(subject.site_energy, params, graph)._replace(stress=jnp.zeros(()))  # NaN by right: there is no cell
    third = jax.jvp(along, (jnp.asarray(graph.nodes["positions"]),), (direction,))[1]
    return prediction, hessian(subject.site_energy, params, graph), third


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
