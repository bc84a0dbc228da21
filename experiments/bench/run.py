"""Time energies with forces, and training steps, of macejax and, where it is installed, of mace-torch, on the same batches.

python experiments/bench/run.py [--channels 32] [--max-L 1] [--repeats 10]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import macejax
from macejax.config import LossConfig, OptimizerConfig
from macejax.data.batch import capacity_for, stack
from macejax.data.structure import Structure
from macejax.train.loss import loss_terms
from macejax.train.optimizer import make_optimizer
from macejax.train.parallel import make_train_step
from macejax.train.state import init_state

SYSTEMS = {"ethanol": 10, "dry_ice": 4}  # structures of a batch


def main() -> None:
    """Print one table: median milliseconds of a call, compilation left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--max-L", type=int, default=1)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"{options.channels} channels, L = {options.max_L}, cutoff {options.cutoff} Å, float32, {device}, median of {options.repeats}")
    print(f"{'system':10s} {'atoms':>6s} {'edges':>7s} {'program':12s} {'energy+forces':>14s} {'training step':>14s}   ms")
    for system, number in SYSTEMS.items():
        structures = [s for s in macejax.read(files("macejax.demo") / f"{system}_train.xyz") if s.config_type != "IsolatedAtom"][:number]
        atoms = sum(len(s.numbers) for s in structures)
        elements = tuple(sorted({int(z) for s in structures for z in s.numbers}))
        graphs = [macejax.build_graph(s, elements, options.cutoff) for s in structures]
        edges = sum(len(graph.senders) for graph in graphs)
        rows = {"macejax": time_macejax(structures, elements, graphs, options)}
        if find_spec("mace") is not None:
            rows["mace-torch"] = time_mace_torch(structures, elements, edges / atoms, options)
        for program, (forces, step) in rows.items():
            print(f"{system:10s} {atoms:6d} {edges:7d} {program:12s} {forces:14.1f} {step:14.1f}", flush=True)


def time_macejax(
    structures: list[Structure], elements: tuple[int, ...], graphs: list[Any], options: argparse.Namespace
) -> tuple[float, float]:
    """Milliseconds of energy with forces, and of a training step with AMSGrad."""
    irreps = " + ".join(f"{options.channels}x{l}{'eo'[l % 2]}" for l in range(options.max_L + 1))
    neighbors = sum(len(graph.senders) for graph in graphs) / sum(len(graph.species) for graph in graphs)
    config = macejax.ModelConfig(
        elements=elements, e0s=(0.0,) * len(elements), cutoff=options.cutoff, hidden_irreps=irreps, avg_num_neighbors=neighbors
    )
    model = macejax.init_model(config, jax.random.key(0), jnp.float32)
    site_energy = macejax.build(config).apply
    batch = jax.device_put(macejax.batch(graphs, capacity_for(graphs)))
    predict = jax.jit(partial(macejax.predict, site_energy))
    forces = median_ms(lambda: jax.block_until_ready(predict(model.params, batch)), options.repeats)
    optimizer = make_optimizer(OptimizerConfig(), model.params, 100, 10)
    state = init_state(model.params, optimizer, ema=False, seed=0)
    train_step = make_train_step(site_energy, loss_terms(LossConfig()), optimizer, ema_decay=None, num_devices=1)
    stacked = stack([jax.device_get(batch)])

    def step() -> None:
        nonlocal state
        state, info = train_step(state, stacked)
        jax.block_until_ready(info)

    return forces, median_ms(step, options.repeats)


def time_mace_torch(
    structures: list[Structure], elements: tuple[int, ...], neighbors: float, options: argparse.Namespace
) -> tuple[float, float]:
    """The same of mace-torch, eager, with a loss on energies and forces."""
    import torch
    from mace import data, modules, tools
    from mace.tools import torch_geometric

    torch.set_default_dtype(torch.float32)
    from e3nn import o3  # after mace, which tells torch how e3nn's constants are to be loaded

    block = modules.interaction_classes
    model = modules.ScaleShiftMACE(
        r_max=options.cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=block["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps(" + ".join(f"{options.channels}x{l}{'eo'[l % 2]}" for l in range(options.max_L + 1))),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=neighbors,
        atomic_numbers=list(elements),
        correlation=3,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    table = tools.AtomicNumberTable(list(elements))
    frames = [
        data.AtomicData.from_config(
            data.Configuration(
                atomic_numbers=s.numbers,
                positions=s.positions,
                cell=s.cell,
                pbc=tuple(bool(p) for p in s.pbc),
                properties={"energy": s.energy, "forces": s.forces},
                property_weights={"energy": 1.0, "forces": 1.0},
            ),
            z_table=table,
            cutoff=options.cutoff,
        )
        for s in structures
    ]
    batch = next(iter(torch_geometric.dataloader.DataLoader(frames, batch_size=len(frames), shuffle=False)))
    loss = modules.WeightedEnergyForcesLoss(energy_weight=1, forces_weight=100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(pred=model(batch.to_dict(), training=True), ref=batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()

    return median_ms(lambda: model(batch.to_dict(), training=False), options.repeats), median_ms(step, options.repeats)


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
