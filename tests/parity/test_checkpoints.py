"""Checkpoints that others trained give the energies and forces that mace-torch gives, after they are imported, saved and loaded again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ase.build
import ase.io
import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the frozen fixtures hold the parity")
pytest.importorskip("mace", reason="mace-torch is not installed: the frozen fixtures hold the parity")

from macejax.checkpoint.load import load_model
from macejax.data.batch import capacity_for
from tests.parity import ours

pytestmark = [pytest.mark.torch, pytest.mark.multiprocess]

REPOSITORY = Path(__file__).resolve().parents[2]
ENERGY_PER_ATOM = 1e-9  # eV
FORCES = 1e-8  # eV/Angstrom
STRESS = 1e-10  # eV/Angstrom^3
FRAMES = slice(1, 3)  # the first frame of some files is an isolated atom
CHECKPOINTS = {
    "solvent_xtb/mace01": "solvent_xtb_test.xyz",
    "zr_mof/mace": "zr_mof_custom_keys.xyz",  # float32, periodic, correlation 3, shift
    "water/one_layer": None,  # float32, one interaction
    "solvent_xtb/small_f32": "solvent_xtb_test.xyz",
    "solvent_xtb/committee_1": "solvent_xtb_test.xyz",
    "solvent_xtb/committee_2": "solvent_xtb_test.xyz",
    "solvent_xtb/committee_3": "solvent_xtb_test.xyz",
}
DEFAULT = list(CHECKPOINTS)[:3]


@pytest.mark.thorough
@pytest.mark.parametrize("names", [DEFAULT, pytest.param(list(CHECKPOINTS)[3:], marks=pytest.mark.slow)], ids=["three", "the-others"])
def test_checkpoints(names: list[str], real_data: Path, tmp_path: Path) -> None:
    arguments = []
    for number, name in enumerate(names):
        frames = water() if CHECKPOINTS[name] is None else ase.io.read(real_data / "data" / CHECKPOINTS[name], ":")[FRAMES]
        bare = [ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc) for frame in frames]
        ase.io.write(tmp_path / f"{number}.xyz", bare)
        arguments += [str(real_data / "models" / f"{name}.model"), str(tmp_path / f"{number}.xyz")]
    # Opening a pickle runs code, which is left to a process of its own.
    command = [sys.executable, "-W", "ignore", "-m", "tests.parity.read_checkpoint", str(tmp_path), *arguments]
    child = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "JAX_ENABLE_X64": "1"}, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    for number, name in enumerate(names):
        read = load_model(real_data / "models" / f"{name}.model")  # by the unpickler: the same weights as the module had in memory
        imported = load_model(tmp_path / f"{number}.mace")
        assert read.config == imported.config.model_copy(update={"heads": read.config.heads}), name
        jax.tree.map(np.testing.assert_array_equal, read.params, imported.params)
        check(name, tmp_path / f"{number}.mace", ase.io.read(tmp_path / f"{number}.xyz", ":"), np.load(tmp_path / f"{number}.npz"))


def check(name: str, path: Path, frames: list[ase.Atoms], reference: dict[str, np.ndarray]) -> None:
    model = load_model(path)
    assert model.config.contraction_basis == "full", name
    largest = capacity_for([ours.to_graph(frame, model) for frame in frames])
    answer = ours.evaluator(model, largest._replace(nodes=max(map(len, frames)) + 1, graphs=2), hessian=False)
    for i, frame in enumerate(frames):
        result = answer(frame)
        assert abs(result["energy"] - reference[f"{i}/energy"]) < ENERGY_PER_ATOM * len(frame), name
        assert np.abs(result["node_energy"] - reference[f"{i}/node_energy"]).max() < ENERGY_PER_ATOM, name
        assert np.abs(result["forces"] - reference[f"{i}/forces"]).max() < FORCES, name
        if frame.pbc.all():
            assert np.abs(result["stress"] - reference[f"{i}/stress"]).max() < STRESS, name


def water() -> list[ase.Atoms]:
    """Two water tetramers."""
    frames = []
    for seed in range(2):
        frame = ase.build.molecule("H2O")
        for i in range(3):
            other = ase.build.molecule("H2O")
            other.rotate(50 * (i + 1), (1, 2, 3))
            other.translate(np.eye(3)[i] * 2.9)
            frame += other
        frame.rattle(0.1, seed=seed)
        frames.append(frame)
    return frames
