"""Checkpoints that others trained give the energies and forces that mace-torch gives, after they are imported, saved and loaded again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the frozen fixtures hold the parity")
pytest.importorskip("mace", reason="mace-torch is not installed: the frozen fixtures hold the parity")

from macejax.checkpoint.model_file import load_model
from macejax.data.batch import capacity_for
from tests.parity import ours

pytestmark = [pytest.mark.torch, pytest.mark.multiprocess]

ENERGY_PER_ATOM = 1e-9  # eV
FORCES = 1e-8  # eV/Angstrom
STRESS = 1e-10  # eV/Angstrom^3
NUM_FRAMES = 2
CHECKPOINTS = {
    "solvent_xtb/mace01": "solvent_xtb_test.xyz",
    "solvent_xtb/committee_1": "solvent_xtb_test.xyz",
    "solvent_xtb/small_f32": "solvent_xtb_test.xyz",
    "zr_mof/mace": "zr_mof_custom_keys.xyz",
    "water/one_layer": "water.xyz",  # made here
}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_checkpoint(checkpoint: str, real_data: Path, tmp_path: Path) -> None:
    structures = real_data / "data" / CHECKPOINTS[checkpoint]
    if not structures.exists():
        structures = water(tmp_path / "water.xyz")
    path = real_data / "models" / f"{checkpoint}.model"
    # Opening a pickle runs code, which is left to a process of its own.
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.parity.read_checkpoint",
        str(path),
        str(structures),
        str(NUM_FRAMES),
        str(tmp_path),
    ]
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr

    model = load_model(tmp_path / "model.mace")
    frames = ase.io.read(tmp_path / "frames.xyz", ":")
    graphs = [ours.to_graph(frame, model) for frame in frames]
    largest = capacity_for(graphs)
    answer = ours.evaluator(model, largest._replace(nodes=max(len(frame) for frame in frames) + 1, graphs=2), hessian=False)
    reference = np.load(tmp_path / "reference.npz")
    for i, frame in enumerate(frames):
        result = answer(frame)
        assert abs(result["energy"] - reference[f"{i}/energy"]) < ENERGY_PER_ATOM * len(frame)
        assert np.abs(result["node_energy"] - reference[f"{i}/node_energy"]).max() < ENERGY_PER_ATOM
        assert np.abs(result["forces"] - reference[f"{i}/forces"]).max() < FORCES
        if frame.pbc.all():
            assert np.abs(result["stress"] - reference[f"{i}/stress"]).max() < STRESS


def water(path: Path) -> Path:
    """Three small water clusters."""
    frames = []
    for seed in range(NUM_FRAMES + 1):
        frame = ase.build.molecule("H2O")
        for i in range(3):
            other = ase.build.molecule("H2O")
            other.rotate(50 * (i + 1), (1, 2, 3))
            other.translate(np.eye(3)[i] * 2.9)
            frame += other
        frame.rattle(0.1, seed=seed)
        frames.append(frame)
    ase.io.write(path, frames)
    return path
