"""Potentials that are wrong in one way each, as force fields have been; every one must be caught by the row that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import rows, sum_per_graph
from macejax.ops.gather import gather_neighbors
from tests.physics import toy

CONFIG = toy.ToyConfig((1, 8, 14), 3.5)
SOUND = toy.make(CONFIG)


def force_of_no_energy(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A bias in the gradient that no energy has."""

    @jax.custom_vjp
    def biased(x: jax.Array) -> jax.Array:
        return x

    biased.defvjp(lambda x: (x, None), lambda _, g: (1.01 * g,))
    return SOUND(params, biased(vectors), graph)


def messages_without_reverse(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """What neighbours send is not differentiated: the force of a site on its neighbours' neighbours is missing."""
    mask = rows(graph.edges["mask"], graph)
    weight = jnp.where(mask, toy.smooth(jnp.sum(vectors**2, axis=-1) / CONFIG.cutoff**2), 0.0)
    density = jax.lax.stop_gradient(jnp.sum(weight, axis=1))
    received = gather_neighbors(density[:, None], rows(graph.senders, graph), graph.edges["reverse"])[..., 0]
    return SOUND(params, vectors, graph) + 0.1 * jnp.sum(weight * received, axis=1)


def curvature_of_another_function(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Right forces whose derivatives are wrong: a part of the gradient is a constant to the next differentiation."""

    @jax.custom_jvp
    def square(x: jax.Array) -> jax.Array:
        return x**2

    square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * jax.lax.stop_gradient(primals[0]) * tangents[0]))
    density = jnp.sum(_weights(vectors, graph), axis=1)
    return SOUND(params, vectors, graph) + 0.1 * square(density)


def anisotropic(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """One direction is a little longer than the others."""
    return SOUND(params, vectors * jnp.array([1.0, 1.0, 1.001], vectors.dtype), graph)


def pseudoscalar(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Invariant under rotation, and changes sign under inversion: a triple product of three sums over neighbours."""
    weight = _weights(vectors, graph)[..., None]
    square = jnp.sum(vectors**2, axis=-1, keepdims=True)
    a, b, c = (jnp.sum(weight * vectors * jnp.exp(-k * square), axis=1) for k in (0.1, 0.5, 1.0))
    return SOUND(params, vectors, graph) + jnp.sum(a * jnp.cross(b, c), axis=-1)


def order_of_atoms(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """An atom's energy depends on its number in the batch."""
    return SOUND(params, vectors, graph) * (1 + 1e-3 * jnp.arange(vectors.shape[0], dtype=vectors.dtype))


def order_of_edges(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """The first neighbours of a row count more."""
    weight = _weights(vectors, graph) / (1 + jnp.arange(vectors.shape[1], dtype=vectors.dtype))
    return SOUND(params, vectors, graph) + 0.1 * jnp.sum(weight, axis=1) ** 2


def positions_themselves(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Atoms far from the middle of the cell have more energy."""
    field = jnp.sum(jax.lax.stop_gradient(graph.nodes["positions"]) ** 2, axis=-1)
    return SOUND(params, vectors, graph) * (1 + 1e-6 * field)


def size_of_padding(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A mean over slots where a sum over neighbours was meant."""
    return SOUND(params, vectors, graph) + jnp.mean(_weights(vectors, graph), axis=1)


def padding_counted(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Padded atoms have an energy."""
    return SOUND(params, vectors, graph) + 0.1


def mean_over_batch(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A normalisation by the mean of the batch."""
    energy = SOUND(params, vectors, graph)
    return energy - 1e-6 * jnp.mean(energy) * graph.nodes["mask"]


def kink_at_cutoff(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """An envelope whose first derivative jumps."""
    return toy.make(CONFIG, lambda x: jnp.maximum(1 - x, 0.0))(params, vectors, graph)


def curvature_jumps_at_cutoff(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """An envelope whose second derivative jumps."""
    return toy.make(CONFIG, lambda x: jnp.where(x < 1, (1 - x) ** 2, 0.0))(params, vectors, graph)


def list_decides(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Whatever is in the list counts: no envelope ends it."""
    return toy.make(CONFIG, lambda x: (1 - x) ** 4)(params, vectors, graph)


def energy_per_atom(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """An intensive energy."""
    counts = jnp.maximum(graph.n_node[graph.nodes["graph"]], 1)
    return SOUND(params, vectors, graph) / counts


def total_squared(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A term that couples all atoms of a structure, however far apart."""
    energy = SOUND(params, vectors, graph)
    return energy * (1 + 1e-3 * sum_per_graph(energy, graph)[graph.nodes["graph"]])


def bare_atom_has_no_energy(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Right but for the energy of an isolated atom."""
    return SOUND(params, vectors, graph) + jnp.where(graph.nodes["mask"], 0.25, 0.0)


def no_self_images(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """An atom does not see its own images."""
    itself = rows(graph.senders == graph.receivers, graph)
    edges = {**graph.edges, "mask": graph.edges["mask"] & ~itself.reshape(-1)}
    return SOUND(params, vectors, graph._replace(edges=edges))


def nearest_images_only(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Cells further than the next are forgotten."""
    near = jnp.max(jnp.abs(graph.edges["shift"]), axis=-1) <= 1
    return SOUND(params, vectors, graph._replace(edges={**graph.edges, "mask": graph.edges["mask"] & near}))


def height_above_origin(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Where there are no edges to say how a slab lies, its absolute cell does: a volume that was invented enters the energy."""
    extent = jnp.max(jnp.abs(graph.globals["cell"]), axis=(1, 2))[graph.nodes["graph"]]
    return SOUND(params, vectors, graph) * (1 + 1e-3 * extent)


def division_by_length(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """1 / r masked by multiplication: NaN on padding, where r is 0."""
    weight = toy.smooth(jnp.sum(vectors**2, axis=-1) / CONFIG.cutoff**2)
    inverse = 1 / jnp.linalg.norm(vectors, axis=-1)
    return SOUND(params, vectors, graph) + jnp.sum(weight * inverse * rows(graph.edges["mask"], graph), axis=1)


def norm_without_care(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A norm whose gradient is NaN where two atoms coincide; padding is dealt with."""
    mask = rows(graph.edges["mask"], graph)
    length = jnp.linalg.norm(jnp.where(mask[..., None], vectors, 1.0), axis=-1)
    return SOUND(params, vectors, graph) + jnp.sum(_weights(vectors, graph) * length, axis=1)


def product_spreads_nan(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A one-hot product over the batch, in which 0 * NaN is NaN."""
    member = (graph.nodes["graph"] == jnp.arange(len(graph.n_node))[:, None]).astype(vectors.dtype)
    energy = SOUND(params, vectors, graph)
    return energy + 0 * (member.T @ (member @ energy))


def nan_replaced(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Failure hidden as a number."""
    return SOUND(params, jnp.nan_to_num(vectors), graph)


def parameters_without_gradient(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A parameter that no loss can change."""
    return SOUND({**params, "density": jax.lax.stop_gradient(params["density"])}, vectors, graph)


def double_inside(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """A constant of float64 that makes everything after it float64."""
    return SOUND(params, vectors, graph) * jnp.asarray(1.0, jnp.float64)


def half_inside(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """What TF32 and its like do to float32, unasked: ten bits of mantissa."""
    rounded = vectors.astype(jnp.float16).astype(vectors.dtype) if vectors.dtype == jnp.float32 else vectors
    return SOUND(params, rounded, graph)


def large_terms_that_cancel(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """What one atom of a pair gains the other loses: no energy in exact arithmetic, and its rounding in float32."""
    senders, species = rows(graph.senders, graph), graph.nodes["species"]
    gained = (species[:, None] - species[senders]) * _weights(vectors, graph)
    return SOUND(params, vectors, graph) + 1e4 * jnp.sum(gained, axis=1)


def _weights(vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    mask = rows(graph.edges["mask"], graph)
    return jnp.where(mask, toy.smooth(jnp.sum(vectors**2, axis=-1) / CONFIG.cutoff**2), 0.0)


BROKEN: dict[Callable[..., jax.Array], int] = {
    force_of_no_energy: 1,
    messages_without_reverse: 1,
    curvature_of_another_function: 3,
    anisotropic: 4,
    pseudoscalar: 4,
    order_of_atoms: 5,
    order_of_edges: 5,
    positions_themselves: 6,
    size_of_padding: 7,
    padding_counted: 8,
    mean_over_batch: 8,
    kink_at_cutoff: 9,
    curvature_jumps_at_cutoff: 9,
    list_decides: 10,
    energy_per_atom: 11,
    total_squared: 12,
    no_self_images: 14,
    nearest_images_only: 15,
    height_above_origin: 15,
    division_by_length: 17,
    norm_without_care: 18,
    product_spreads_nan: 19,
    nan_replaced: 19,
    parameters_without_gradient: 21,
}
BROKEN_IN_FLOAT32: dict[Callable[..., jax.Array], int] = {double_inside: 17, half_inside: 1, large_terms_that_cancel: 1}
