"""Parity of dipoles and polarizabilities without torch: what tests/fixtures/make.py froze."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np

from macejax.checkpoint.load import load_model, read_header
from tests.parity import moments

FOLDER = Path(__file__).resolve().parents[1] / "fixtures"


def test_frozen_moments_of_mace_torch() -> None:
    path = FOLDER / "moments_AtomicDielectricMACE.mace"
    answer, frozen = moments.evaluator(load_model(path)), np.load(path.with_suffix(".npz"))
    assert read_header(path)["units"]["dipole"] == "e Angstrom"
    for structure in moments.STRUCTURES:
        known = {name.split("/")[1]: frozen[name] for name in frozen.files if name.startswith(f"{structure}/")}
        inputs = {name: known.pop(name) for name in ("numbers", "positions", "cell", "pbc")}
        atoms = ase.Atoms(**inputs, info={"total_charge": 2.0})
        moments.assert_same(answer(atoms), known)
