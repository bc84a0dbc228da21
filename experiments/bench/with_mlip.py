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
from mlip.typing.properties import Properties
from worker import Work, check_slope, serve


def prepare(command: dict[str, Any]) -> Work:
    """Energy and forces, with stress where it is asked for, or a training step with AMSGrad."""
    jax.config.update("jax_enable_x64", command["dtype"] == "float64")
    settings = command["settings"]
    channels, highest = settings["hidden"].split("x")[0], settings["hidden"].count("+")
    info = DatasetInfo(
        atomic_energies_map=dict.fromkeys(settings["elements"], 0.0),
        graph_cutoff_angstrom=settings["cutoff"],
        avg_num_neighbors=settings["neighbors"],
    )
    config = Mace.Config(num_channels=int(channels), node_symmetry=highest, residual_connection_first_layer=True)
    field = ForceField.from_mlip_network(Mace(config, info), Properties(stress=command["work"] == "stress"), seed=0)
    frames = ase.io.read(command["structures"], ":")
    periodic = any(frame.pbc.any() for frame in frames)
    graphs = [Graph.from_chemical_system(_system(frame, command["dtype"], periodic), settings["cutoff"]) for frame in frames]
    graph = jax.tree.map(jnp.asarray, batch_graphs(graphs))
    predict = jax.jit(field.predictor.apply)
    begun = time.perf_counter()
    out = jax.block_until_ready(predict(field.params, graph))
    seconds = time.perf_counter() - begun
    results = np.asarray(out.globals.energy), np.asarray(out.nodes.forces)
    edges = int(graph.senders.shape[0])
    positions = graph.nodes.positions

    def energy(shift: np.ndarray) -> float:
        moved = graph.replace_nodes(positions=positions + jnp.asarray(shift, positions.dtype))
        return float(np.sum(predict(field.params, moved).globals.energy, dtype=np.float64))

    check_slope(energy, results[1], command["dtype"])
    if command["work"] != "step":
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


def _system(frame: ase.Atoms, dtype: str, periodic: bool) -> ChemicalSystem:
    """A molecule among crystals is put into a box so large that nothing changes: one batch cannot have both."""
    if periodic and not frame.pbc.any():
        frame = frame.copy()
        frame.set_cell([1000.0] * 3)
        frame.pbc = True
    return ChemicalSystem(
        atomic_numbers=frame.numbers,
        positions=frame.positions.astype(dtype),
        cell=frame.cell.array.astype(dtype) if periodic else None,
        pbc=tuple(bool(p) for p in frame.pbc) if periodic else None,
        energy=0.0,
        forces=np.zeros_like(frame.positions, dtype),
    )


if __name__ == "__main__":
    serve(prepare)
