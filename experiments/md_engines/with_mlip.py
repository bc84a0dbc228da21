"""mlip's jax-md engine as a worker of the bench: its MACE with the same channels, irreps and cutoff, but weights of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from mlip.data.dataset_info import DatasetInfo
from mlip.models.force_field import ForceField
from mlip.models.mace.network import Mace
from mlip.simulation.enums import MDIntegrator
from mlip.simulation.jax_md.jax_md_simulation_engine import JaxMDSimulationEngine

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from worker import Work, serve  # noqa: E402


def prepare(command: dict[str, Any]) -> Work:
    """An engine whose episodes are as long as the bench's runs; one run for every call, each going on from the one before.

    Raises:
      ValueError: it can not do what the others do.
    """
    if command["dtype"] != "float32":
        raise ValueError("mlip simulates in float32.")
    settings, length = command["settings"], command["episode"]
    info = DatasetInfo(
        atomic_energies_map=dict.fromkeys(settings["elements"], 0.0),
        graph_cutoff_angstrom=settings["cutoff"],
        avg_num_neighbors=settings["neighbors"],
    )
    config = Mace.Config(num_channels=settings["channels"], node_symmetry=1, residual_connection_first_layer=True)
    atoms = ase.io.read(command["structures"])
    engine = JaxMDSimulationEngine(
        atoms,
        ForceField.from_mlip_network(Mace(config, info), seed=0),
        JaxMDSimulationEngine.Config(
            md_integrator=MDIntegrator.NVE_VELOCITY_VERLET,
            num_steps=length,
            num_episodes=1,
            snapshot_interval=length,
            timestep_fs=command["timestep"],
            temperature_kelvin=command["temperature"],
        ),
    )

    def run(steps: int) -> None:
        if steps % length:
            raise ValueError(f"episodes have {length} steps, of which {steps} is no multiple.")
        for _ in range(steps // length):
            engine.run()

    begun = time.perf_counter()
    run(length)
    return Work(run, np.zeros(1), np.zeros((len(atoms), 3)), 0, time.perf_counter() - begun)


if __name__ == "__main__":
    serve(prepare)
