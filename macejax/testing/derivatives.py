"""Rows 1 to 3 and 21: forces, stress, Hessian and parameter gradients are derivatives of one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.data.batch import batch
from macejax.data.structure import Structure, volume
from macejax.potential.hessian import hessian
from macejax.potential.predict import predict
from macejax.testing import limits
from macejax.testing.errors import force_over_rms, largest, rms, strain_over_largest
from macejax.testing.report import Check, worst_of
from macejax.testing.subject import Result, Subject, closest_pair, edge_lengths, evaluate, exact_capacity, expected, graphs_of, near_origin, select
from macejax.testing.transform import displaced, strained

Move = Callable[[Structure, np.ndarray], Structure]
STENCIL = np.array([-2, -1, 1, 2])
WEIGHTS = np.array([1, -8, 8, -1]) / 12  # fourth-order central difference
ALL_ATOMS = 5  # up to so many atoms every coordinate is moved; beyond, two directions
HESSIAN_ATOMS = 5
COMPARED = 20  # parameters


def forces(subject: Subject) -> list[Check]:
    """Row 1: F = -dE/dr. In float32: the forces of float64."""
    if not subject.is_double:
        return [_precision(subject, 1, "forces are those of float64, in rms forces", limits.FORCE_PRECISION, force_over_rms)]
    structures = select(subject, lambda structure: has_room(subject, structure))
    results = expected(subject, structures)
    rng = subject.rng(1)
    absolute, relative = [], []
    for name, structure in structures.items():
        force = results[name].forces
        directions = _directions(force, rng)
        found = -_energy_differences(subject, structure, directions, displaced, limits.FORCE_STEP)
        error = largest(found - np.einsum("dna,na->d", directions, force))
        absolute.append((error, name))
        relative.append((error / max(rms(force), limits.FORCE_FLOOR), name))
    return [
        worst_of(1, "forces are -dE/dr, in eV/A", limits.FORCE_FD_ABSOLUTE.float64, absolute),
        worst_of(1, "forces are -dE/dr, in rms forces", limits.FORCE_FD_RELATIVE.float64, relative),
    ]


def stress(subject: Subject) -> list[Check]:
    """Row 2: stress = dE/d(strain) / V, for any mix of periodic directions. In float32: that of float64."""
    if not subject.is_double:
        return [_precision(subject, 2, "dE/d(strain) is that of float64, relative", limits.STRESS_PRECISION, strain_over_largest)]
    structures = select(subject, lambda structure: has_room(subject, structure))
    return [worst_of(2, "stress is dE/d(strain) / V, in eV/A^3", limits.STRESS_FD.float64, strain_errors(subject, structures))]


def strain_errors(subject: Subject, structures: Mapping[str, Structure]) -> list[tuple[float, str]]:
    """(error, name): how far dE/d(strain) / V is from finite differences (eV/Angstrom^3); V is 1 where there is no volume."""
    results = expected(subject, structures)
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    strains = np.zeros((6, 3, 3))
    for strain, (a, b) in zip(strains, pairs, strict=True):
        strain[a, b] += 0.5
        strain[b, a] += 0.5
    errors = []
    for name, structure in structures.items():
        found = _energy_differences(subject, structure, strains, strained, limits.STRAIN_STEP)
        derivative = np.array([results[name].strain_derivative[pair] for pair in pairs])
        errors.append((largest(found - derivative) / (volume(structure.cell) or 1.0), name))
    return errors


def second_derivatives(subject: Subject) -> list[Check]:
    """Row 3: the Hessian is symmetric, equals differences of forces, and its rows sum to zero."""
    structures = select(subject, lambda structure: _is_smooth_and_small(structure, subject))
    graphs = graphs_of(subject, structures.values())
    nodes = max(len(graph.species) for graph in graphs)
    capacity = exact_capacity(subject, graphs)._replace(nodes=nodes + 1, graphs=2)
    compiled = jax.jit(lambda params, graph: hessian(subject.site_energy, params, graph))
    symmetric, acoustic, finite = [], [], []
    for (name, structure), graph in zip(structures.items(), graphs, strict=True):
        n = len(structure.numbers)
        full = np.asarray(compiled(subject.params, batch([graph], capacity, dtype=subject.dtype)))[:n, :, :n, :]
        moves = np.eye(3 * n).reshape(3 * n, n, 3)
        copies = [displaced(near_origin(subject, structure), limits.FORCE_STEP * k * move) for move in moves for k in STENCIL]
        moved = np.array([result.forces for result in evaluate(subject, copies)]).reshape(3 * n, 4, n, 3)
        difference = -np.einsum("dkna,k->dna", moved, WEIGHTS) / limits.FORCE_STEP
        symmetric.append((largest(full - full.transpose(2, 3, 0, 1)), name))
        acoustic.append((largest(full.sum(axis=2)), name))
        finite.append((largest(full.reshape(3 * n, n, 3) - difference), name))
    return [
        worst_of(3, "Hessian is symmetric, in eV/A^2", limits.HESSIAN_SYMMETRY.float64, symmetric),
        worst_of(3, "Hessian is -dF/dr, in eV/A^2", limits.HESSIAN_FD.float64, finite),
        worst_of(3, "Hessian sums to zero over atoms, in eV/A^2", limits.HESSIAN_ACOUSTIC.float64, acoustic),
    ]


def loss_gradients(subject: Subject) -> list[Check]:
    """Row 21: gradients of a force loss with respect to the parameters are finite everywhere and equal finite differences."""
    gradient = jax.jit(jax.grad(lambda params, graph: force_loss(subject, params, graph)))
    structures = {**subject.structures, **subject.coincident}
    graphs = graphs_of(subject, structures.values())
    capacity = exact_capacity(subject, graphs)._replace(nodes=max(max(len(g.species) for g in graphs) + 1, 32), graphs=2)
    errors = []
    for name, graph in zip(structures, graphs, strict=True):
        leaves = jax.tree.leaves(gradient(subject.params, batch([graph], capacity, dtype=subject.dtype)))
        errors.append((sum(np.count_nonzero(~np.isfinite(leaf)) for leaf in leaves), name))
    checks = [worst_of(21, "gradients of a force loss are finite", subject.limit(limits.VIOLATIONS), errors)]
    return checks + (_parameter_differences(subject, gradient) if subject.is_double else [])


def force_loss(subject: Subject, params: Any, graph: jraph.GraphsTuple) -> jax.Array:
    """Mean squared force component plus mean squared energy of a batch; 0 of padding."""
    prediction = predict(subject.site_energy, params, graph)
    atoms = jnp.maximum(jnp.sum(graph.nodes["mask"]), 1)
    return jnp.sum(prediction.forces**2) / (3 * atoms) + jnp.sum(prediction.energy**2) / graph.n_node.shape[0]


def has_room(subject: Subject, structure: Structure) -> bool:
    """True where no two atoms are too close for finite differences."""
    return closest_pair(graphs_of(subject, [structure])[0]) > limits.CLOSEST_PAIR


def _is_smooth_and_small(structure: Structure, subject: Subject) -> bool:
    """Few atoms, none close, and no pair so near the cutoff, where third derivatives jump, that a difference of forces would cross it."""
    margin = 4 * limits.FORCE_STEP
    lengths = edge_lengths(graphs_of(subject, [structure], subject.cutoff + margin)[0])
    crosses = np.any(np.abs(lengths - subject.cutoff) < margin)
    return len(structure.numbers) <= HESSIAN_ATOMS and has_room(subject, structure) and not crosses


def _precision(subject: Subject, row: int, promise: str, limit: limits.Limit, error: Callable[[Result, Result], float]) -> Check:
    results = evaluate(subject, subject.structures.values())
    known = expected(subject, subject.structures)
    found = [(error(result, known[name]), name) for name, result in zip(subject.structures, results, strict=True)]
    return worst_of(row, promise, subject.limit(limit), found)


def _directions(force: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Displacements [directions, n, 3] of norm 1: every coordinate of a small structure; else a random one and that of the force."""
    if len(force) <= ALL_ATOMS:
        return np.eye(force.size).reshape(-1, *force.shape)
    directions = np.stack([rng.normal(size=force.shape), force if rms(force) > limits.FORCE_FLOOR else rng.normal(size=force.shape)])
    return directions / np.sqrt(np.sum(directions**2, axis=(1, 2), keepdims=True))


def _energy_differences(subject: Subject, structure: Structure, directions: np.ndarray, move: Move, step: float) -> np.ndarray:
    """dE along every direction [d, ...] that `move` takes, [d], by fourth-order central differences of all copies in few batches."""
    centred = near_origin(subject, structure)
    copies = [move(centred, k * step * direction) for direction in directions for k in STENCIL]
    energies = np.array([result.energy for result in evaluate(subject, copies)]).reshape(-1, len(STENCIL))
    return energies @ WEIGHTS / step


def _parameter_differences(subject: Subject, gradient: Callable[..., Any]) -> list[Check]:
    bonded = select(subject, lambda s: len(s.numbers) in range(2, ALL_ATOMS + 1) and has_room(subject, s))
    graphs = {name: graphs_of(subject, [structure]) for name, structure in bonded.items()}
    name = max(graphs, key=lambda name: (graphs[name][0].max_degree > 0, len(np.unique(graphs[name][0].species))))
    graphs = graphs[name]
    graph = batch(graphs, exact_capacity(subject, graphs), dtype=subject.dtype)
    exact, tree = jax.tree.flatten(gradient(subject.params, graph))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(subject.params)]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(subject.params)]
    loss = jax.jit(lambda params: force_loss(subject, params, graph))
    rng = subject.rng(21)
    exact = [np.asarray(leaf) for leaf in exact]
    scale = max(largest(leaf) for leaf in exact)
    errors = []
    for k in range(COMPARED):
        leaf = k % len(leaves) if k < len(leaves) else int(rng.integers(len(leaves)))
        # An entry with a gradient, where there is one; every fourth is any entry, which may belong to an absent element.
        candidates = np.argwhere(exact[leaf] != 0) if k % 4 and exact[leaf].any() else np.argwhere(np.ones_like(exact[leaf], dtype=bool))
        entry = tuple(int(i) for i in candidates[rng.integers(len(candidates))])
        difference = _loss_difference(loss, leaves, tree, leaf, entry)
        error = abs(difference - exact[leaf][entry]) / max(abs(exact[leaf][entry]), limits.GRADIENT_FLOOR * scale)
        errors.append((error, f"{name}, entry {entry} of parameter {paths[leaf]}"))
    return [worst_of(21, "gradients of a force loss are differences of it, relative", limits.LOSS_GRADIENT_FD.float64, errors)]


def _loss_difference(loss: Callable[..., jax.Array], leaves: list[np.ndarray], tree: Any, leaf: int, entry: tuple[int, ...]) -> float:
    """d loss / d parameter by a fourth-order central difference of one entry of one leaf."""
    values = []
    for k in STENCIL:
        changed = list(leaves)
        changed[leaf] = leaves[leaf].copy()
        changed[leaf][entry] += k * limits.PARAMETER_STEP
        values.append(float(loss(jax.tree.unflatten(tree, changed))))
    return float(np.dot(values, WEIGHTS)) / limits.PARAMETER_STEP
