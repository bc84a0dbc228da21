"""The first steps of training are mace_run_train's: same weights and batches, same loss, gradient, clipping, decay and AMSGrad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("mace", reason="mace-torch is not installed")

pytestmark = [pytest.mark.torch, pytest.mark.multiprocess]

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 20
LOSS = 1e-8  # relative
RECIPE = "--name first --model MACE --E0s average --r_max 5.0 --batch_size 5 --lr 0.01 --ema --ema_decay 0.99 --seed 1 --energy_weight 1"
SMALL = (
    "--loss weighted --forces_weight 1000 --valid_fraction 0.1 --num_channels 4 --max_L 1 --correlation 2 --max_ell 2 --weight_decay 1e-3"
)
FULL = "--loss ef --valid_fraction 0.05 --num_channels 32 --max_L 1 --correlation 3 --energy_key energy --forces_key forces"


@pytest.mark.thorough
def test_first_losses(tmp_path: Path) -> None:
    """A small model with a weight decay that shows, on made-up labels."""
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(40):
        atoms = ase.Atoms("OHHCH", positions=[[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0], [0, -1.4, 0.2], [0.1, -2.0, 1.1]])
        atoms.positions += generator.normal(scale=0.1, size=(5, 3))
        atoms.info["REF_energy"] = -10 + generator.normal(scale=0.3)
        atoms.arrays["REF_forces"] = generator.normal(size=(5, 3))
        frames.append(atoms)
    ase.io.write(tmp_path / "frames.xyz", frames)
    check(f"{RECIPE} {SMALL} --train_file {tmp_path / 'frames.xyz'}")


@pytest.mark.slow
def test_first_losses_of_the_ethanol_recipe(real_data: Path) -> None:
    check(f"{RECIPE} {FULL} --train_file {real_data / 'data' / 'rmd17_ethanol_train_01.xyz'}")


def check(arguments: str) -> None:
    script = REPOSITORY / "experiments" / "rmd17_ethanol" / "first_losses.py"
    command = [sys.executable, "-W", "ignore", str(script), "--steps", str(STEPS), "--", *arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    answer = json.loads(child.stdout)
    reference, ours = np.array(answer["mace-torch"]), np.array(answer["macejax"])
    assert reference.shape == ours.shape == (STEPS,)
    assert np.abs(reference[1:] - reference[0]).min() > 1e-3 * reference[0], "the weights did not move"
    assert np.abs(ours / reference - 1).max() < LOSS, np.abs(ours / reference - 1)
