"""First values of the parameters, as mace-torch draws them, all in one draw; and the smallest batch, from which shapes follow."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.config import ModelConfig
from macejax.model.nonlinear import ALPHA, SMALL

# Parameters that are not normal, by name: (pattern, value from the bound of a torch layer and a uniform number between -1 and 1).
_INITIAL: list[tuple[str, Callable[[float, jax.Array], jax.Array]]] = [
    (r"alpha", lambda bound, u: jnp.full_like(u, ALPHA)),
    (r"scale\d+", lambda bound, u: jnp.ones_like(u)),
    (r"beta|offset\d+|bias_.*", lambda bound, u: jnp.zeros_like(u)),
    (r"(source|target)_embedding", lambda bound, u: SMALL * u),
    (r"(.*_)?(weight|bias)\d+|project", lambda bound, u: bound * u),
]


def first_values(shapes: Any, key: jax.Array, dtype: jnp.dtype) -> Any:
    """Random parameters for a tree of shapes, distributed as the initialisers of the modules have it (tests compare the two)."""
    leaves, tree = jax.tree.flatten_with_path(shapes)
    by_path = {tuple(step.key for step in path): leaf.shape for path, leaf in leaves}
    sizes = [int(np.prod(shape)) for shape in by_path.values()]
    draws = jnp.split(jax.random.normal(key, (sum(sizes),), dtype), np.cumsum(sizes)[:-1])
    values = [_initial(path, draw.reshape(shape), by_path) for (path, shape), draw in zip(by_path.items(), draws, strict=True)]
    return jax.tree.unflatten(tree, values)


def example_graph(config: ModelConfig, dtype: np.dtype) -> jraph.GraphsTuple:
    """The smallest batch: one atom without neighbours. Parameter shapes do not depend on it."""
    inputs: dict[str, dict[str, np.ndarray]] = {"graph": {}, "atom": {}}
    for spec in config.joint_embedding:
        inputs[spec.per][spec.name] = np.zeros((1,) if spec.per == "graph" else (1, spec.in_dim), dtype)
    return jraph.GraphsTuple(
        nodes={
            "species": np.zeros(1, np.int32),
            "slot": np.zeros(1, np.int32),
            "graph": np.zeros(1, np.int32),
            "mask": np.ones(1, bool),
            "positions": np.zeros((1, 3), dtype),
            "image": np.zeros((1, 3), np.int32),
            "charges": np.zeros(1, dtype),
            "inputs": inputs["atom"],
        },
        edges={"shift": np.zeros((4, 3), np.int32), "mask": np.zeros(4, bool), "reverse": np.arange(4, dtype=np.int32)},
        senders=np.zeros(4, np.int32),
        receivers=np.zeros(4, np.int32),
        globals={
            "species_table": np.zeros(1, np.int32),
            "cell": np.eye(3, dtype=dtype)[None],
            "head": np.zeros(1, np.int32),
            "origin": np.zeros((1, 3), dtype),
            "total_charge": np.zeros(1, dtype),
            "inputs": inputs["graph"],
        },
        n_node=np.ones(1, np.int32),
        n_edge=np.full(1, 4, np.int32),
    )


def _initial(path: tuple[str, ...], normal: jax.Array, shapes: dict[tuple[str, ...], tuple[int, ...]]) -> jax.Array:
    """The first value of a parameter, from standard normal numbers: they are it, unless the modules say otherwise."""
    name = path[-1]
    if "contraction" in path:
        return normal / normal.shape[1]
    fan = shapes.get((*path[:-1], name.replace("bias", "weight")), normal.shape)
    for pattern, value in _INITIAL:
        if re.fullmatch(pattern, name):
            return value(1 / np.sqrt(fan[0] if fan else 1), 2 * jax.scipy.special.ndtr(normal) - 1)
    return normal
