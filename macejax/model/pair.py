"""Pair potentials as site energies, safe to differentiate by their parameters, and sums of site energies.

Every slot that holds no pair (padding, coincident atoms) gets a harmless distance before any power is taken of it, so that no derivative,
by positions or by parameters, of any order, is NaN there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.data.species import covalent_radii
from macejax.model.geometry import rows, safe_norm
from macejax.model.repulsion import zbl
from macejax.ops.gather import gather_neighbors
from macejax.ops.slots import add_slots

SiteEnergy = Callable[[Any, jax.Array, jraph.GraphsTuple], jax.Array]
CORE = 0.5  # of sigma: nearer, Lennard-Jones goes on as a parabola, 16000 epsilon above the minimum


def lennard_jones(cutoff: float, onset: float | None = None) -> SiteEnergy:
    """4 epsilon ((sigma / r)^12 - (sigma / r)^6), switched off smoothly between `onset` and `cutoff`.

    Its parameters are {"epsilon": [Z] (eV), "sigma": [Z] (Angstrom)}, or one number for all; different elements mix by the rules of Lorentz
    and Berthelot. Below half of sigma the energy goes on as the parabola of equal value, slope and curvature, so that energies
    and gradients are finite at any distance, in float32 too; coincident atoms have no direction and feel no force from each other.

    Args:
      cutoff: Angstrom.
      onset: where the switching begins (Angstrom); 0.8 of the cutoff where it is not given.

    Returns:
      site energy `(params, vectors [N, M, 3], graph) -> [N]`, to be used alone or in `add`.
    """
    onset = 0.8 * cutoff if onset is None else onset
    if not 0 <= onset < cutoff:
        raise ValueError(f"the onset of the switching must be from 0 to the cutoff ({cutoff} Angstrom), not {onset}.")

    def site_energy(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        (epsilon, other_epsilon), (sigma, other_sigma) = (_of_pairs(params[name], graph, vectors.dtype) for name in ("epsilon", "sigma"))
        product = epsilon * other_epsilon  # a square root has no derivative at 0
        depth = jnp.where(product == 0, 0, jnp.sqrt(jnp.where(product == 0, 1, product)))
        real, r = _distances(vectors, graph, cutoff)
        size = (sigma + other_sigma) / 2
        extended = size != 0  # where it is 0, so is the energy at any distance
        reduced = r / jnp.where(extended, size, 1)
        pairs = jnp.where(extended, depth * _lennard_jones(reduced) * switch(r, onset, cutoff), 0)
        return _halves(pairs, real, graph)

    return site_energy


def screened_repulsion(elements: Sequence[int], power: int = 6) -> SiteEnergy:
    """The repulsion of nuclei by Ziegler, Biersack and Littmark, for a model that was built without it (`pair_repulsion`).

    It ends at the sum of the covalent radii, to which the neighbour list must reach. Its parameters are {"strength": number}, 1 for ZBL
    itself.

    Args:
      elements: atomic numbers that the model knows, ascending.
      power: of the polynomial cutoff.
    """
    radii, numbers = np.asarray(covalent_radii(tuple(elements)), np.float64), np.asarray(elements, np.float64)

    def site_energy(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        real, r = _distances(vectors, graph, 1.0)
        pairs = 2 * zbl(r, *_of_pairs(numbers, graph, r.dtype), sum(_of_pairs(radii, graph, r.dtype)), power)
        return _halves(params["strength"] * pairs, real, graph)

    return site_energy


def add(*terms: SiteEnergy) -> SiteEnergy:
    """The sum of several site energies; its parameters are the sequence of theirs. One of them may be a MACE's `apply`."""
    if not terms:
        raise ValueError("add needs at least one site energy.")

    def site_energy(params: Sequence[Any], vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        if len(params) != len(terms):
            raise ValueError(f"a sum of {len(terms)} site energies needs as many sets of parameters, not {len(params)}.")
        return sum(term(own, vectors, graph) for term, own in zip(terms, params, strict=True))

    return site_energy


def switch(r: jax.Array, onset: float, cutoff: float) -> jax.Array:
    """1 up to `onset`, 0 from `cutoff` on, between them the polynomial of fifth degree with two continuous derivatives."""
    x = jnp.clip((r - onset) / (cutoff - onset), 0, 1)
    return 1 - x**3 * (10 - 15 * x + 6 * x**2)


def _lennard_jones(x: jax.Array) -> jax.Array:
    """Energy in units of epsilon at r = x sigma."""
    near = x < CORE
    inverse = jnp.where(near, CORE, x) ** -6
    value, slope = 4 * (CORE**-12 - CORE**-6), 4 * (6 * CORE**-7 - 12 * CORE**-13)
    curvature = 4 * (156 * CORE**-14 - 42 * CORE**-8)
    y = jnp.where(near, x, CORE) - CORE
    return jnp.where(near, value + slope * y + curvature / 2 * y**2, 4 * inverse * (inverse - 1))


def _of_pairs(values: Any, graph: jraph.GraphsTuple, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Values of the elements [Z], or one for all, of receiver [N, 1] and sender [N, M] of every slot; NaN for an element that has none.

    A one-hot product and a gather whose transpose is a gather: the derivative by the values needs no scatter.
    """
    values, species = jnp.asarray(values, dtype), graph.nodes["species"]
    if values.ndim:
        member = (species[:, None] == jnp.arange(values.shape[0], dtype=jnp.int32)).astype(dtype)
        of_atoms = jnp.where(species < values.shape[0], jnp.matmul(member, values, precision=jax.lax.Precision.HIGHEST), jnp.nan)
    else:
        of_atoms = jnp.broadcast_to(values, species.shape)
    return of_atoms[:, None], gather_neighbors(of_atoms, rows(graph.senders, graph), graph.edges["reverse"])


def _distances(vectors: jax.Array, graph: jraph.GraphsTuple, harmless: float) -> tuple[jax.Array, jax.Array]:
    """Whether a slot holds an edge [N, M], and its length (Angstrom), `harmless` where it does not."""
    real = rows(graph.edges["mask"], graph)
    harmless_vector = jnp.asarray([0.0, 0.0, harmless], vectors.dtype)
    return real, safe_norm(jnp.where(real[..., None], vectors, harmless_vector))


def _halves(pairs: jax.Array, real: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Half of the energy of its pairs to every atom [N]; 0 on padding."""
    return jnp.where(graph.nodes["mask"], add_slots(jnp.where(real, pairs, 0)) / 2, 0)
