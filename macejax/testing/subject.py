"""The potential under test, its parameters in both precisions, and the compiled functions that the rows share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.data.batch import Capacity
from macejax.data.graph import build_graph
from macejax.data.structure import Structure
from macejax.model.geometry import edge_vectors, sum_per_graph
from macejax.ops.gather import reverse_edges
from macejax.potential.hessian import hessian
from macejax.potential.predict import Prediction, SiteEnergy, assemble, edge_gradient, energies_of, predict
from macejax.testing.limits import COINCIDENT, Limit


class Scaled(NamedTuple):
    """Parameters and a factor on the energy, so that potentials of any size are held to the same thresholds."""

    factor: jax.Array  # a power of two: it changes no digit
    params: Any


class Result(NamedTuple):
    """What the potential says of one structure of n atoms; numpy float64."""

    energy: float  # eV
    node_energy: np.ndarray  # [n] eV
    forces: np.ndarray  # [n, 3] eV/Angstrom
    strain_derivative: np.ndarray  # [3, 3] eV
    stress: np.ndarray  # [3, 3] eV/Angstrom^3
    # What the dtype of the check cannot resolve: limits.EPSILONS times its epsilon times the sum of the magnitudes of the forces of pairs.
    force_resolution: np.ndarray  # [n] eV/Angstrom
    strain_resolution: float  # eV


class Compiled(NamedTuple):
    """Jitted functions of (scaled parameters, batch). One compilation for each capacity and dtype that they meet."""

    predict: Callable[..., tuple[Prediction, jax.Array, jax.Array]]  # and the magnitudes of pairs in forces [N] and dE/d(strain) [G]
    hessian: Callable[..., jax.Array]  # [N, 3, N, 3] eV/Angstrom^2
    along: Callable[..., tuple[jax.Array, jax.Array]]  # first and second derivative of the forces along a third argument, all [N, 3]
    loss_gradient: Callable[..., Any]  # of the force loss, with respect to the parameters
    foreign: Callable[..., jax.Array]  # [G, N, 3], dE_k / dr of every structure k and every atom
    features: Callable[..., Sequence[jax.Array]] | None  # [N, D, K] per layer


class Subject(NamedTuple):
    """A potential and what the rows need of it."""

    compiled: Compiled
    params: Scaled  # in `dtype`
    reference_params: Scaled  # in float64
    elements: tuple[int, ...]
    cutoff: float  # Angstrom
    reach: float  # Angstrom, how far an atom's energy sees
    has_parity: bool  # whether mirror images have the same energy
    dtype: np.dtype
    structures: Mapping[str, Structure]  # without labels; every pair of atoms has a direction
    coincident: Mapping[str, Structure]  # the others: a rounding error turns their pairs, so forces mean nothing
    max_degree: int  # neighbours of the atom that has most, over all structures
    defaults: Mapping[str, Structure]  # for rows that none of `structures` suits
    expected: dict[str, Result]  # float64 results, by name, of every structure asked for so far
    feature_irreps: tuple[str, ...]
    atom_energies: Mapping[int, float] | None  # eV, by atomic number
    capacities: dict[int, Capacity]  # by row length; they grow when a structure needs it
    seed: int

    def rng(self, row: int) -> np.random.Generator:
        """Random numbers of one row: the same whichever other rows run."""
        return np.random.default_rng([self.seed, row])

    def limit(self, limit: Limit) -> float | None:
        """The threshold in the dtype of the check."""
        return limit.float64 if self.is_double else limit.float32

    @property
    def is_double(self) -> bool:
        """True where the check runs in float64."""
        return self.dtype == np.float64


def make_subject(
    site_energy: SiteEnergy,
    params: Any,
    config: Any,
    *,
    structures: Mapping[str, Structure],
    defaults: Mapping[str, Structure],
    dtype: Any,
    reference_params: Any,
    features: Callable[..., Sequence[jax.Array]] | None,
    feature_irreps: Iterable[str],
    atom_energies: Mapping[int, float] | None,
    compiler_options: Mapping[str, Any] | None,
    seed: int,
) -> Subject:
    """Casts the parameters, so that float64 computes with the very weights of float32, and sets coincident atoms apart."""
    params = cast(params, dtype)
    elements = tuple(int(z) for z in config.elements)
    cutoff = float(config.cutoff)
    regular = {name: s for name, s in structures.items() if closest_pair(s, elements, cutoff) > COINCIDENT}
    return Subject(
        compiled=_compiled(site_energy, features, compiler_options),
        params=Scaled(jnp.ones((), dtype), params),
        reference_params=Scaled(jnp.ones((), np.float64), cast(params if reference_params is None else reference_params, np.float64)),
        elements=elements,
        cutoff=cutoff,
        reach=cutoff * int(getattr(config, "num_interactions", 1)),
        has_parity=not getattr(config, "so3", False),
        dtype=np.dtype(dtype),
        structures=regular or defaults,
        coincident={name: structure for name, structure in structures.items() if name not in regular},
        max_degree=max(build_graph(structure, elements, cutoff).max_degree for structure in structures.values()),
        defaults=defaults,
        expected={},
        feature_irreps=tuple(feature_irreps),
        atom_energies=atom_energies,
        capacities={},
        seed=seed,
    )


def cast(params: Any, dtype: Any) -> Any:
    """Parameters with every floating-point array in a dtype."""
    arrays = jax.tree.map(jnp.asarray, params)
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, arrays)


def rescaled(subject: Subject, factor: float) -> Subject:
    """The subject with its energy multiplied by a factor."""
    return subject._replace(
        params=subject.params._replace(factor=jnp.asarray(factor, subject.dtype)),
        reference_params=subject.reference_params._replace(factor=jnp.asarray(factor, np.float64)),
        atom_energies=None if subject.atom_energies is None else {z: factor * e for z, e in subject.atom_energies.items()},
        expected={},
    )


def force_loss(prediction: Prediction, graph: jraph.GraphsTuple) -> jax.Array:
    """Mean squared force component plus mean squared energy of a batch; 0 of padding."""
    atoms = jnp.maximum(jnp.sum(graph.nodes["mask"]), 1)
    structures = jnp.maximum(jnp.sum(graph.globals["mask"]), 1)
    return jnp.sum(prediction.forces**2) / (3 * atoms) + jnp.sum(prediction.energy**2) / structures


def closest_pair(structure: Structure, elements: Sequence[int], cutoff: float) -> float:
    """Shortest distance of atoms or their images (Angstrom), infinite where there is none within the cutoff."""
    return float(np.min(edge_lengths(structure, elements, cutoff), initial=np.inf))


def edge_lengths(structure: Structure, elements: Sequence[int], cutoff: float) -> np.ndarray:
    """Length [E] of every edge (Angstrom)."""
    graph = build_graph(structure, elements, cutoff)
    return np.linalg.norm(graph.positions[graph.senders] + graph.shift @ graph.cell - graph.positions[graph.receivers], axis=1)


def _compiled(site_energy: SiteEnergy, features: Callable[..., Sequence[jax.Array]] | None, options: Mapping[str, Any] | None) -> Compiled:
    jit = functools.partial(jax.jit, compiler_options=None if options is None else dict(options))

    def scaled(params: Scaled, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        return params.factor * energies_of(site_energy(params.params, vectors, graph))

    def predicted(params: Scaled, graph: jraph.GraphsTuple) -> Prediction:
        return predict(scaled, params, graph)

    def with_terms(params: Scaled, graph: jraph.GraphsTuple) -> tuple[Prediction, jax.Array, jax.Array]:
        energies, gradient = edge_gradient(scaled, params, graph)
        of_pairs = jnp.linalg.norm(gradient - reverse_edges(gradient, graph.edges["reverse"]), axis=-1)
        lengths = jnp.linalg.norm(edge_vectors(graph), axis=-1)
        strain_terms = sum_per_graph(jnp.sum(lengths * of_pairs, axis=1), graph) / 2  # every pair is there twice
        return assemble(energies, gradient, graph), jnp.sum(of_pairs, axis=1), strain_terms

    def energies(params: Scaled, graph: jraph.GraphsTuple, positions: jax.Array) -> jax.Array:
        graph = graph._replace(nodes={**graph.nodes, "positions": positions})
        return sum_per_graph(scaled(params, edge_vectors(graph), graph), graph)

    def along(params: Scaled, graph: jraph.GraphsTuple, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        def forces(positions: jax.Array) -> jax.Array:
            return predicted(params, graph._replace(nodes={**graph.nodes, "positions": positions})).forces

        def curvature(positions: jax.Array) -> jax.Array:
            return jax.jvp(forces, (positions,), (direction,))[1]

        return jax.jvp(curvature, (graph.nodes["positions"],), (direction,))

    return Compiled(
        predict=jit(with_terms),
        hessian=jit(lambda params, graph: hessian(scaled, params, graph)),
        along=jit(along),
        loss_gradient=jit(jax.grad(lambda params, graph: force_loss(predicted(params, graph), graph))),
        foreign=jit(lambda params, graph: jax.jacrev(lambda x: energies(params, graph, x))(graph.nodes["positions"])),
        features=None if features is None else jit(lambda params, graph: features(params.params, edge_vectors(graph), graph)),
    )
