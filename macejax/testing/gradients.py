"""Row 21: gradients of a force loss with respect to the parameters, what training rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jraph
import numpy as np

from macejax.data.batch import Capacity, batch
from macejax.data.graph import Graph
from macejax.testing import limits
from macejax.testing.derivatives import ALL_ATOMS, STENCIL, WEIGHTS, has_room
from macejax.testing.errors import largest
from macejax.testing.evaluate import exact_capacity, graphs_of, select
from macejax.testing.report import Check, worst_of
from macejax.testing.subject import Subject, force_loss

COMPARED = 20  # parameters, or one of each array if there are more arrays


def loss_gradients(subject: Subject) -> list[Check]:
    """Row 21: gradients of a force loss with respect to the parameters are finite everywhere and equal finite differences."""
    structures = {**subject.structures, **subject.coincident}
    graphs = dict(zip(structures, graphs_of(subject, structures.values()), strict=True))
    capacity = gradient_capacity(subject)
    gradients = {name: gradient(subject, [graph], capacity) for name, graph in graphs.items()}
    errors = [(count_not_finite(found), name) for name, found in gradients.items()]
    checks = [worst_of(21, "gradients of a force loss are finite", subject.limit(limits.VIOLATIONS), errors)]
    if not subject.is_double:
        return checks
    bonded = select(subject, lambda s: len(s.numbers) in range(2, ALL_ATOMS + 1) and has_room(subject, s))
    graphs = dict(zip(bonded, graphs_of(subject, bonded.values()), strict=True))
    name = max(graphs, key=lambda name: (graphs[name].max_degree > 0, len(np.unique(graphs[name].species))))
    return [*checks, _parameter_differences(subject, name, graphs[name], capacity)]


def gradient(subject: Subject, graphs: Sequence[Graph], capacity: Capacity) -> Any:
    """Gradient of the force loss of a batch with respect to the parameters."""
    return subject.compiled.loss_gradient(subject.params, batch(graphs, capacity, dtype=subject.dtype))


def gradient_capacity(subject: Subject) -> Capacity:
    """The one capacity that loss gradients are compiled for: it holds any structure of the check, or a few small ones."""
    graphs = graphs_of(subject, [*subject.structures.values(), *subject.coincident.values(), *subject.defaults.values()])
    capacity = exact_capacity(subject, graphs)
    return capacity._replace(nodes=max(max(len(graph.species) for graph in graphs), 4) + 1, graphs=4)


def count_not_finite(tree: Any) -> int:
    """How many numbers of a tree are infinite or NaN."""
    return sum(np.count_nonzero(~np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


def _parameter_differences(subject: Subject, name: str, graph: Graph, capacity: Capacity) -> Check:
    """Gradients of some parameters in each array, most of them of elements that are there, beside differences of the loss."""
    exact = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient(subject, [graph], capacity))]
    paths = [jax.tree_util.keystr(path[1:]) for path, _ in jax.tree_util.tree_leaves_with_path(subject.params)]
    alone = batch([graph], exact_capacity(subject, [graph]), dtype=subject.dtype)
    rng = subject.rng(21)
    scale = max(largest(leaf) for leaf in exact)
    errors = []
    for k in range(max(COMPARED, len(exact))):
        leaf = k if k < len(exact) else int(rng.integers(len(exact)))
        every = np.ones_like(exact[leaf], dtype=bool)
        candidates = np.argwhere(exact[leaf] != 0 if k % 4 and exact[leaf].any() else every)
        entry = tuple(int(i) for i in candidates[rng.integers(len(candidates))])
        error = abs(_loss_difference(subject, alone, leaf, entry) - exact[leaf][entry])
        error /= max(abs(exact[leaf][entry]), limits.GRADIENT_FLOOR * scale)
        errors.append((error, f"{name}, entry {entry} of {paths[leaf] or 'the factor on energies'}"))
    return worst_of(21, "gradients of a force loss are differences of it, relative", limits.LOSS_GRADIENT_FD.float64, errors)


def _loss_difference(subject: Subject, graph: jraph.GraphsTuple, leaf: int, entry: tuple[int, ...]) -> float:
    """d loss / d parameter by a fourth-order central difference of one entry of one array."""
    leaves, tree = jax.tree.flatten(subject.params)
    values = []
    for k in STENCIL:
        changed = list(leaves)
        changed[leaf] = leaves[leaf].at[entry].add(k * limits.PARAMETER_STEP)
        prediction, *_ = subject.compiled.predict(jax.tree.unflatten(tree, changed), graph)
        values.append(float(force_loss(prediction, graph)))
    return float(np.dot(values, WEIGHTS)) / limits.PARAMETER_STEP
