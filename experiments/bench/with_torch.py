"""mace-torch as a worker of the bench, eager; with cuequivariance where there is CUDA and the package. It also makes the weights."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn loads constants of its own

import ase.io
import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools
from mace.tools import torch_geometric
from worker import Work, serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_model(settings: dict[str, Any], dtype: str) -> Any:
    """A module, by default a ScaleShiftMACE, whose weights follow from its seed."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # drawn in double, so that both precisions have the same weights
    first, other = (
        modules.interaction_classes[f"{settings.get(name, 'RealAgnosticResidual')}InteractionBlock"] for name in ("first", "interaction")
    )
    elements, heads, kind = settings["elements"], settings.get("heads"), settings.get("class", "ScaleShiftMACE")
    options = dict(settings.get("options", {}))
    if "edge_irreps" in options:
        options["edge_irreps"] = o3.Irreps(options["edge_irreps"])
    if kind == "ScaleShiftMACE":
        options |= {"atomic_inter_scale": [1.0] * len(heads) if heads else 1.0, "atomic_inter_shift": [0.0] * len(heads) if heads else 0.0}
    if heads:
        options |= {"heads": heads, "atomic_energies": np.zeros((len(heads), len(elements)))}
    usual = dict(
        r_max=settings["cutoff"],
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=other,
        interaction_cls_first=first,
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps(settings["hidden"]),
        MLP_irreps=o3.Irreps(settings.get("readout", "16x0e")),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=settings["neighbors"],
        atomic_numbers=list(elements),
        correlation=3,
    )
    module = getattr(modules, kind)(**usual | options)
    torch.set_default_dtype(getattr(torch, dtype))
    return module.to(getattr(torch, dtype))


def prepare(command: dict[str, Any]) -> Work:
    """Energy and forces, with stress where it is asked for, or a training step with AMSGrad; weights go to a macejax file if asked."""
    module = make_model(command["settings"], command["dtype"])
    if "write_model" in command:
        import macejax
        from macejax.checkpoint.torch_import import from_torch

        macejax.save(command["write_model"], from_torch(module))
    if DEVICE == "cuda" and command.get("cueq"):
        from mace.cli.convert_e3nn_cueq import run

        module = run(module, device=DEVICE)
    module = module.to(DEVICE)
    frames = ase.io.read(command["structures"], ":")
    table = tools.AtomicNumberTable(list(command["settings"]["elements"]))
    cutoff = command["settings"]["cutoff"]
    graphs = [data.AtomicData.from_config(data.config_from_atoms(frame), z_table=table, cutoff=cutoff) for frame in frames]
    batch = next(iter(torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False))).to(DEVICE)

    with_stress = command["work"] == "stress"

    def forces() -> dict[str, torch.Tensor]:
        out = module(batch.to_dict(), training=False, compute_force=True, compute_stress=with_stress)
        _wait()
        return out

    begun = time.perf_counter()
    out = forces()
    seconds = time.perf_counter() - begun
    results = out["energy"].detach().cpu().numpy(), out["forces"].detach().cpu().numpy()
    edges = batch.edge_index.shape[1]
    if command["work"] != "step":
        return Work(forces, *results, edges, seconds, out["stress"].detach().cpu().numpy() if with_stress else None)
    loss = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01, amsgrad=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(pred=module(batch.to_dict(), training=True, compute_force=True), ref=batch).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 10)
        optimizer.step()
        _wait()

    return Work(step, *results, edges, seconds)


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    serve(prepare)
