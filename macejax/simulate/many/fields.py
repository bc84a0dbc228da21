"""What a simulation knows of one system or of a batch: named arrays per atom and per system, packed and unpacked on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.model.geometry import sum_per_graph

# globals["status"] of a system.
RUNNING, STALE, NONFINITE, HOT, DONE, JUMPED = range(6)


class Fields(NamedTuple):
    """State of one system of n atoms, or of a batch; then leading axes are N and G, padding included.

    Every simulation has `nodes`: positions [n, 3] (Angstrom), forces [n, 3] (eV/Angstrom, those of the model, constraints not applied) and
    free [n, 3] (bool, False for what a constraint holds). `globals`: cell [3, 3] (Angstrom), energy (eV, without E0s), strain_derivative
    [3, 3] (eV), step, total (the step to end with), every (steps from frame to frame), status, new (nothing has been evaluated yet),
    used (part of the reach of the neighbour list that is used up), near (most neighbours within the cutoff when it was evaluated last, be
    it that the step was taken or not) and has_volume.
    """

    nodes: dict[str, Any]
    globals: dict[str, Any]

    def update(self, nodes: dict[str, Any] | None = None, **of_systems: Any) -> Fields:
        """The same with other values for some names."""
        return Fields({**self.nodes, **(nodes or {})}, {**self.globals, **of_systems})


def start(
    positions: np.ndarray, cell: np.ndarray, free: np.ndarray, has_volume: bool, total: int, every: int, nodes: dict, of_system: dict
) -> Fields:
    """A system before its first evaluation, what that gives being NaN, with what its kind of simulation adds."""
    return Fields(
        {"positions": positions, "forces": np.full_like(positions, np.nan), "free": free, **nodes},
        {
            "cell": cell,
            "energy": np.float64(np.nan),
            "strain_derivative": np.full((3, 3), np.nan),
            "step": np.int32(0),
            "total": np.int32(total),
            "every": np.int32(every),
            "status": np.int32(RUNNING),
            "new": np.bool_(True),
            "used": np.float64(0),
            "near": np.int32(0),
            "has_volume": np.bool_(has_volume),
            **of_system,
        },
    )


def pack(parts: Sequence[Fields], like: Fields, num_nodes: int, num_graphs: int) -> Fields:
    """The batch of systems in this order. Padding systems are finished copies of `like` without atoms."""
    nodes = {}
    for name, example in like.nodes.items():
        array = np.zeros((num_nodes, *example.shape[1:]), example.dtype)
        if parts:
            joined = np.concatenate([part.nodes[name] for part in parts])
            array[: len(joined)] = joined
        nodes[name] = array
    of_systems = {}
    for name, example in like.globals.items():
        padding = [DONE if name == "status" else example] * (num_graphs - len(parts))
        of_systems[name] = np.stack(
            [np.asarray(value, np.asarray(example).dtype) for value in [part.globals[name] for part in parts] + padding]
        )
    return Fields(nodes, of_systems)


def unpack(batch: Fields, sizes: Sequence[int]) -> list[Fields]:
    """The systems of a batch of numpy arrays; `sizes` are their numbers of atoms."""
    ends = np.cumsum(sizes, dtype=int)
    return [
        Fields(
            {name: value[end - size : end].copy() for name, value in batch.nodes.items()},
            {name: value[k].copy() for name, value in batch.globals.items()},
        )
        for k, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def choose(condition: jax.Array, yes: Fields, no: Fields, graph: jraph.GraphsTuple) -> Fields:
    """`yes` for the systems [G] where the condition holds, `no` for the others."""
    of_nodes = condition[graph.nodes["graph"]]

    def pick(mask: jax.Array, name: str, a: dict, b: dict) -> jax.Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a[name]) - 1)), a[name], b[name])

    return Fields(
        {name: pick(of_nodes, name, yes.nodes, no.nodes) for name in no.nodes},
        {name: pick(condition, name, yes.globals, no.globals) for name in no.globals},
    )


def of_atoms(values: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """What each atom's system has: [G, ...] -> [N, ...]."""
    return values[graph.nodes["graph"]]


def max_per_graph(x: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
    """Largest value [G] of a node array [N]; 0 where there is none. Values are 0 or more; padding does not count. NaN stays NaN."""
    values = jnp.where(graph.nodes["mask"], x, 0)
    found = jax.ops.segment_max(values, graph.nodes["graph"], graph.n_node.shape[0], indices_are_sorted=True)
    spoilt = sum_per_graph(jnp.isnan(values).astype(values.dtype), graph) > 0
    return jnp.where(spoilt, jnp.nan, jnp.maximum(found, 0))
