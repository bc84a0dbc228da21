"""mlip as a worker of the bench: its MACE with the same channels, irreps, correlation and cutoff, in its default arrangement.

Its product basis is parametrised in another way, so that weights cannot be carried over: the driver checks its forces against differences
of its energy instead.
"""

from __future__ import annotations

import time
from typing import Any

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import optax
from mlip.data import ChemicalSystem
from mlip.data.dataset_info import DatasetInfo
from mlip.graph import Graph
from mlip.graph.batching_helpers import batch_graphs
from mlip.models.force_field import ForceField
from mlip.models.mace.network import Mace
from worker import Work, serve


def prepare(command: dict[str, Any]) -> Work:
    """Energy and forces, or a training step with AMSGrad."""
    jax.config.update("jax_enable_x64", command["dtype"] == "float64")
    settings = command["settings"]
    channels, highest = settings["hidden"].split("x")[0], settings["hidden"].count("+")
    info = DatasetInfo(
        atomic_energies_map=dict.fromkeys(settings["elements"], 0.0),
        graph_cutoff_angstrom=settings["cutoff"],
        avg_num_neighbors=settings["neighbors"],
    )
    config = Mace.Config(num_channels=int(channels), node_symmetry=highest, residual_connection_first_layer=True)
    field = ForceField.from_mlip_network(Mace(config, info), seed=0)
    frames = ase.io.read(command["structures"], ":")
    graphs = [Graph.from_chemical_system(_system(frame, command["dtype"]), settings["cutoff"]) for frame in frames]
    graph = jax.tree.map(jnp.asarray, batch_graphs(graphs))
    predict = jax.jit(field.predictor.apply)
    begun = time.perf_counter()
    out = jax.block_until_ready(predict(field.params, graph))
    seconds = time.perf_counter() - begun
    results = np.asarray(out.globals.energy), np.asarray(out.nodes.forces)
    edges = int(graph.senders.shape[0])
    _check(predict, field.params, graph, out)
    if command["work"] == "forces":
        return Work(lambda: jax.block_until_ready(predict(field.params, graph)), *results, edges, seconds)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.amsgrad(0.01))
    counts = graph.n_node

    def loss(params: Any) -> jax.Array:
        made = field.predictor.apply(params, graph)
        energy = (made.globals.energy - graph.globals.energy) / counts
        return jnp.mean(energy**2) + 100 * jnp.mean((made.nodes.forces - graph.nodes.forces) ** 2)

    @jax.jit
    def update(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    held = [field.params, optimizer.init(field.params)]

    def step() -> None:
        held[:] = jax.block_until_ready(update(*held))

    begun = time.perf_counter()
    step()
    return Work(step, *results, edges, time.perf_counter() - begun)


def _system(frame: ase.Atoms, dtype: str) -> ChemicalSystem:
    periodic = frame.pbc.any()
    return ChemicalSystem(
        atomic_numbers=frame.numbers,
        positions=frame.positions.astype(dtype),
        cell=frame.cell.array.astype(dtype) if periodic else None,
        pbc=tuple(bool(p) for p in frame.pbc) if periodic else None,
        energy=0.0,
        forces=np.zeros_like(frame.positions, dtype),
    )


def _check(predict: Any, params: Any, graph: Any, out: Any) -> None:
    """The force along one direction is the slope of the energy, to what the dtype resolves."""
    positions = graph.nodes.positions
    direction = jnp.asarray(np.random.default_rng(0).normal(size=positions.shape), positions.dtype)
    step = 1e-2 if positions.dtype == jnp.float32 else 1e-4
    energies = [predict(params, graph.replace_nodes(positions=positions + k * step * direction)).globals.energy.sum() for k in (-1, 1)]
    slope, known = (energies[1] - energies[0]) / (2 * step), -jnp.sum(out.nodes.forces * direction)
    if not abs(slope - known) <= 0.05 * abs(known) + 0.05 * jnp.sqrt(jnp.sum(out.nodes.forces**2)):
        raise ValueError(f"forces and energies of mlip disagree: slope {slope}, forces {known}.")


if __name__ == "__main__":
    serve(prepare)
