"""Small systems and finite differences for tests of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk

from macejax.config import ModelConfig
from macejax.data.read import from_atoms
from macejax.model.model import Model, build, init_model
from tests.simulate.toy import LATTICE, morse, toy_model

DERIVATIVE = 1e-5  # relative, derivative against finite difference, float64


def copper(a: float = LATTICE, rattle: float = 0.05) -> Atoms:
    """Four atoms, so small a cell that most neighbours are images."""
    atoms = bulk("Cu", cubic=True, a=a)
    atoms.rattle(rattle, seed=0)
    return atoms


def copper_structure(**options: float) -> Any:
    return from_atoms(copper(**options))


def toy() -> tuple[Any, Model]:
    return morse, toy_model()


def mace(layers: int = 1) -> tuple[Any, Model]:
    """A MACE with random parameters that compiles in seconds."""
    config = ModelConfig(
        elements=(1, 8, 29),
        e0s=(0.0, 0.0, 0.0),
        cutoff=3.0,
        hidden_irreps="4x0e + 4x1o",
        l_max=1,
        correlation=2,
        num_bessel=4,
        radial_mlp=(8,),
        scale=0.3,
        num_interactions=layers,
        avg_num_neighbors=12.0,
        pair_repulsion=True,
    )
    return build(config).apply, init_model(config, jax.random.key(1), jnp.float64)


def along(tree: Any, seed: int = 0) -> Any:
    """A random direction in the space of the parameters."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=np.shape(x))), tree)


def assert_gradient(function: Callable[[Any], Any], at: Any, h: float = 1e-4, tolerance: float = DERIVATIVE, has_aux: bool = False) -> Any:
    """Compare the reverse-mode gradient of a scalar function along a random direction with central differences of fourth order.

    Returns:
      value, or value and auxiliary output, at `at`.
    """
    direction = along(at)
    both = jax.jit(jax.value_and_grad(function, has_aux=has_aux))  # one compilation for all

    def moved(step: float) -> float:
        value = both(jax.tree.map(lambda x, d: x + step * h * d, at, direction))[0]
        return float(value[0] if has_aux else value)

    slope = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
    value, gradient = both(at)
    found = sum(float(jnp.vdot(g, d)) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    assert slope != 0 and np.isfinite(found)
    np.testing.assert_allclose(found, slope, rtol=tolerance)
    return value
