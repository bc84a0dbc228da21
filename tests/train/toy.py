"""A small potential and small batches, so that training is tested without the model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from macejax.config import LossConfig
from macejax.config.optimize import TERMS
from macejax.data.batch import Capacity, batch, capacity_for, stack
from macejax.data.graph import build_graphs
from macejax.data.structure import Structure
from macejax.model.geometry import rows

CUTOFF = 4.0
ELEMENTS = (1, 6, 8)


def loss_config(kind: str, weights: dict[str, float], **options: Any) -> LossConfig:
    """The loss of that kind, with the weights that it has a term for."""
    return LossConfig(
        kind=kind, **{name: value for name, value in weights.items() if name.removesuffix("_weight") in TERMS[kind]}, **options
    )


def init_params(seed: int = 0, dtype=np.float64):
    """Morse parameters per species, and a few matrices with the names that weight decay looks for."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    return {
        "params": {
            "node_embedding": {"depth": 0.3 + 0.1 * normal(3), "length": 1.5 + 0.1 * normal(3), "width": 1.0 + 0.1 * normal(3)},
            "interaction_0": {"linear": {"0e": normal(3, 4)}, "linear_up": {"0e": normal(1, 3)}},
            "product_0": {"linear": {"0e": normal(4, 4)}},
            "readout_0": {"linear": 0.1 * normal(4, 1)},
        }
    }


def site_energy(params, vectors, graph):
    """Half of each Morse bond, and a small network of the density of neighbours. [N] eV."""
    p = params["params"]
    mask = rows(graph.edges["mask"], graph)
    square = jnp.where(mask, jnp.sum(vectors**2, axis=-1), 1.0)
    r = jnp.sqrt(jnp.where(square == 0, 1.0, square))  # NaN stays NaN
    x = jnp.minimum(r / CUTOFF, 1.0)
    envelope = jnp.where(mask, (1 - x**2) ** 3, 0)
    own = graph.nodes["species"][:, None]
    other = rows(graph.nodes["species"][graph.senders], graph)
    depth, length, width = (p["node_embedding"][name][own] + p["node_embedding"][name][other] for name in ("depth", "length", "width"))
    decay = jnp.exp(-width / 2 * (r - length / 2))
    bonds = 0.5 * jnp.sum(envelope * depth * ((1 - decay) ** 2 - 1), axis=1)
    density = jnp.sum(envelope * jnp.exp(-r), axis=1)[:, None]
    hidden = jnp.tanh(density @ p["interaction_0"]["linear_up"]["0e"]) @ p["interaction_0"]["linear"]["0e"]
    readout = jnp.tanh(hidden @ p["product_0"]["linear"]["0e"]) @ p["readout_0"]["linear"]
    return jnp.where(graph.nodes["mask"], bonds + readout[:, 0], 0)


def structures(count: int, seed: int = 0, labels=("energy", "forces", "stress")) -> list[Structure]:
    """Small random crystals of 2 to 5 atoms with random labels and weights."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = int(random.integers(2, 6))
        cell = 3.2 * np.eye(3) + 0.3 * random.normal(size=(3, 3))
        stress = 0.05 * random.normal(size=(3, 3))
        found.append(
            Structure(
                numbers=random.choice(ELEMENTS, size=size),
                positions=random.uniform(size=(size, 3)) @ cell,
                cell=cell,
                pbc=np.ones(3, bool),
                energy=float(random.normal()) if "energy" in labels else float("nan"),
                forces=random.normal(size=(size, 3)) if "forces" in labels else None,
                stress=stress + stress.T if "stress" in labels else None,
                config_type=("bulk", "cluster")[number % 2],
                weight=float(random.uniform(0.5, 2)),
                weights={name: float(random.uniform(0.5, 2)) for name in ("energy", "forces", "stress", "virials")},
                source=f"toy.xyz:frame {number}",
            )
        )
    return found


def graphs(found):
    return build_graphs(found, ELEMENTS, CUTOFF)


def one_batch(found, dtype=np.float64):
    made = graphs(found)
    return batch(made, capacity_for(made), dtype)


def sharded(made, num_devices: int, capacity: Capacity | None = None, dtype=np.float64):
    """Graphs dealt out over devices, [num_devices, ...]; a device may get none."""
    parts = [made[device::num_devices] for device in range(num_devices)]
    capacity = capacity or Capacity(*(max(sizes) for sizes in zip(*(capacity_for(part) for part in parts), strict=True)))
    return stack([batch(part, capacity, dtype) for part in parts])


def largest_difference(left, right) -> float:
    """Largest absolute difference of two trees, relative to the largest entry of each array."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - b)) / max(np.max(np.abs(np.asarray(b))), 1e-300)) for a, b in pairs)
