"""Parity without torch: models and answers that tests/fixtures/make.py froze."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import ase
import numpy as np
import pytest

from macejax.checkpoint.load import load_model
from tests.marks import rest_is_thorough
from tests.parity import ours
from tests.parity.compare import assert_same_answer

FOLDER = Path(__file__).resolve().parents[1] / "fixtures"
CASES = sorted(path.stem for path in FOLDER.glob("parity_*.npz"))
WITH_HESSIAN = "parity_three_layers"  # the others would spend most of their time in its compilation
LONG = (WITH_HESSIAN, "parity_residual_L2")


@functools.cache
def answer_of(case: str) -> ours.Answer:
    return ours.evaluator(load_model(FOLDER / f"{case}.mace"), hessian=case == WITH_HESSIAN)


@pytest.mark.parametrize("structure", ["molecule", "crystal", "tial", "slab"])
@pytest.mark.parametrize("case", rest_is_thorough(CASES, [case for case in CASES if case not in LONG]))
def test_frozen_answers_of_mace_torch(case: str, structure: str) -> None:
    frozen = np.load(FOLDER / f"{case}.npz")
    known = {name.split("/")[1]: frozen[name] for name in frozen.files if name.startswith(f"{structure}/")}
    if case != WITH_HESSIAN:
        del known["hessian"]
    atoms = ase.Atoms(known["numbers"], known["positions"], cell=known["cell"], pbc=known["pbc"])
    atoms.info |= json.loads(str(known.pop("info", "{}")))
    answer = answer_of(case)(atoms)
    if load_model(FOLDER / f"{case}.mace").config.embedding_readout:  # mace-torch leaves it out of the energies of atoms
        del known["node_energy"], answer["node_energy"]
    assert_same_answer(answer, known, periodic=bool(atoms.pbc.all()))


def test_there_are_frozen_answers() -> None:
    assert len(CASES) == 9
