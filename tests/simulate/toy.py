"""A Morse pair potential with a smooth cutoff: a model for tests that compiles in no time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jraph
from ase import Atoms

from macejax.config import ModelConfig
from macejax.model.geometry import rows
from macejax.model.model import Model

CUTOFF = 4.0  # Angstrom
LATTICE = 3.2615  # Angstrom, of fcc at rest
ELEMENTS = (1, 8, 29)
E0S = (-1.0, -2.0, -3.0)


def morse(params: dict, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Half of the bonds of each atom: D ((1 - exp(-a (r - r0)))^2 - 1) times a smooth step that ends at the cutoff; [N] eV."""
    mask = rows(graph.edges["mask"], graph)
    square = jnp.where(mask, jnp.sum(vectors**2, axis=-1), 1.0)
    r = jnp.sqrt(square)
    x = jnp.clip(r / CUTOFF, 0, 1)
    step = (1 - x**2) ** 4
    bond = params["depth"] * ((1 - jnp.exp(-params["a"] * (r - params["r0"]))) ** 2 - 1) * step
    return jnp.sum(jnp.where(mask, bond, 0), axis=1) / 2


def hollow(params: dict, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Morse, and a hole for bonds from 3.0 to 3.9 Angstrom, which no force tells of."""
    length = jnp.linalg.norm(vectors, axis=-1)
    fallen = rows(graph.edges["mask"], graph) & (length > 3.0) & (length < 3.9)
    return morse(params, vectors, graph) - 2e6 * jnp.sum(fallen, axis=1)


def flying_apart() -> Atoms:
    """Two atoms of copper that leave each other."""
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.6]])
    atoms.set_velocities([[0, 0, -0.1], [0, 0, 0.1]])
    return atoms


def toy_model(depth: float = 0.4, a: float = 1.4, r0: float = 2.55) -> Model:
    """Parameters near copper's."""
    config = ModelConfig(elements=ELEMENTS, e0s=E0S, cutoff=CUTOFF)
    return Model(config, {"depth": jnp.asarray(depth), "a": jnp.asarray(a), "r0": jnp.asarray(r0)})
