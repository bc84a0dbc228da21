"""macejax as a worker of the bench."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
from worker import Work, check_slope, serve

import macejax
from macejax.config import LossConfig, OptimizerConfig
from macejax.data.batch import capacity_for, stack
from macejax.data.read import from_atoms
from macejax.train.loss import loss_terms
from macejax.train.optimizer import make_optimizer
from macejax.train.parallel import make_train_step
from macejax.train.state import init_state


def prepare(command: dict[str, Any]) -> Work:
    """Energy, forces and stress, which one pass gives, or a training step with AMSGrad; model file and structures are the command's."""
    jax.config.update("jax_enable_x64", command["dtype"] == "float64")
    model = macejax.load(command["model"])
    dtype = np.dtype(command["dtype"])
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), model.params)
    structures = [from_atoms(atoms) for atoms in ase.io.read(command["structures"], ":")]
    graphs = [macejax.build_graph(s, model.config.elements, model.config.cutoff) for s in structures]
    edges = sum(len(graph.senders) for graph in graphs)
    batch = jax.device_put(macejax.batch(graphs, capacity_for(graphs, classes=4), dtype))
    site_energy = macejax.build(model.config).apply
    predict = jax.jit(partial(macejax.predict, site_energy))
    begun = time.perf_counter()
    prediction = jax.block_until_ready(predict(params, batch))
    seconds = time.perf_counter() - begun
    atoms = sum(len(s.numbers) for s in structures)
    results = np.asarray(prediction.energy)[: len(graphs)], np.asarray(prediction.forces)[:atoms]
    real = np.flatnonzero(np.asarray(batch.nodes["mask"]))

    def energy(shift: np.ndarray) -> float:
        positions = np.array(batch.nodes["positions"], np.float64)
        positions[real] += shift
        moved = batch._replace(nodes={**batch.nodes, "positions": jnp.asarray(positions, dtype)})
        # Of atoms: the total of 30,000 has no digits left, in float32, for so small a difference.
        return float(np.sum(predict(params, moved).node_energy, dtype=np.float64))

    check_slope(energy, results[1], command["dtype"])
    if command["work"] != "step":
        stress = np.asarray(prediction.stress)[: len(graphs)] if command["work"] == "stress" else None
        return Work(lambda: jax.block_until_ready(predict(params, batch)), *results, edges, seconds, stress)
    loss = loss_terms(LossConfig(kind="weighted", energy_weight=1.0, forces_weight=100.0))
    optimizer = make_optimizer(OptimizerConfig(), params, 100, 10)
    state = init_state(params, optimizer, ema=False, seed=0)
    train_step = make_train_step(site_energy, loss, optimizer, num_devices=1)
    stacked = stack([jax.device_get(batch)])

    def step() -> None:
        nonlocal state
        state, info = train_step(state, stacked)
        jax.block_until_ready((state, info))

    begun = time.perf_counter()
    step()
    return Work(step, *results, edges, time.perf_counter() - begun)


if __name__ == "__main__":
    serve(prepare)
