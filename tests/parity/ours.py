"""macejax's answer to the questions of reference.evaluate: one compiled function for all structures of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ase
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.data.batch import Capacity, batch
from macejax.data.graph import Graph, model_graphs
from macejax.data.read import from_atoms
from macejax.model.geometry import edge_vectors
from macejax.model.model import Model, build
from macejax.potential import Prediction, predict
from macejax.potential.hessian import hessian as second_derivatives

# Holds every structure of reference.STRUCTURES, so that a model is compiled once; with padding atoms and a padding structure.
CAPACITY = Capacity(nodes=10, slots=32, graphs=2, species=3)


Answer = Callable[[ase.Atoms], dict[str, np.ndarray]]


def to_graph(atoms: ase.Atoms, model: Model) -> Graph:
    return model_graphs([from_atoms(atoms)], model.config)[0]


def evaluator(model: Model, capacity: Capacity = CAPACITY, *, hessian: bool = True) -> Answer:
    """A function from atoms to the quantities of `reference.evaluate`, in float64."""
    module = build(model.config)
    params = jax.tree.map(jnp.asarray, model.params)

    @jax.jit
    def compute(params: Any, graph: jraph.GraphsTuple) -> tuple[Prediction, jax.Array, jax.Array]:
        layers = module.apply(params, edge_vectors(graph), graph, method="contributions")
        second = second_derivatives(module.apply, params, graph) if hessian else jnp.zeros(())
        return predict(module.apply, params, graph), layers, second

    def answer(atoms: ase.Atoms) -> dict[str, np.ndarray]:
        graph = to_graph(atoms, model)
        num = len(atoms)
        prediction, layers, second = jax.device_get(compute(params, batch([graph], capacity, np.float64)))
        e0s = np.asarray(model.config.e0_table)[graph.head, graph.species]
        result = {
            "energy": prediction.energy[0] + e0s.sum(),
            "node_energy": prediction.node_energy[:num] + e0s,
            "forces": prediction.forces[:num],
            "stress": prediction.stress[0],
            "strain_derivative": prediction.strain_derivative[0],
            "contributions": layers[:num],
        }
        if hessian:
            result["hessian"] = second[:num, :, :num].reshape(3 * num, 3 * num)
        return result

    return answer
