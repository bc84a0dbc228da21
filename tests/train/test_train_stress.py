"""Training on stress and virials, by every loss that has such a term, on a few frames of the bundled dry ice."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import macejax
from macejax.config import TrainConfig
from macejax.data.labels import VOIGT
from macejax.data.read import read, to_atoms
from macejax.data.structure import Structure
from macejax.data.write import write
from macejax.train import finish
from macejax.train.log import read_metrics
from macejax.train.loop import train
from tests.reliability.tiny import configuration

DEMO = Path(str(files("macejax"))) / "demo"
# Only the term that is meant has a weight, or nearly so: energies are learnt from what it is of.
LOSSES: dict[str, dict[str, float]] = {
    "stress": {"forces": 0, "stress": 1e4},
    "virials": {"forces": 0, "virials": 100},
    "huber": {"forces": 0, "stress": 1e4},
    "universal": {"energy": 0.01, "forces": 0.1, "stress": 1e4},
    "l1l2": {"energy": 0.1, "forces": 10},
}
QUICK = ("stress", "universal")
LEARNT = {"stress": "stress", "virials": "virials_per_atom", "huber": "stress", "universal": "stress", "l1l2": "forces"}


def crystals(subset: str, count: int) -> list[Structure]:
    """Frames of dry ice with the virials that belong to their stress."""
    found = [structure for structure in read(DEMO / f"dry_ice_{subset}.xyz") if structure.stress is not None][:count]
    return [structure._replace(virials=-abs(np.linalg.det(structure.cell)) * structure.stress) for structure in found]


def run_of(folder: Path, kind: str) -> TrainConfig:
    write(folder / "valid.xyz", crystals("test", 10))
    weights = {f"loss__{term}_weight": weight for term, weight in ({"energy": 0.0} | LOSSES[kind]).items()}
    options = {"data__valid": str(folder / "valid.xyz"), "data__e0s": "average", "run__epochs": 2}
    return configuration(folder, structures=crystals("train", 32), loss__kind=kind, stage_two__enabled=False, **options, **weights)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in LOSSES])
def test_training_lowers_the_loss_and_what_its_largest_term_is_of(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finish, "write_report", lambda *_: None)
    outcome = train(run_of(tmp_path, kind))
    lines = read_metrics(tmp_path / "tiny")
    first, *_, last = (line for line in lines if line["kind"] == "validation")
    assert last["loss"] < 0.8 * first["loss"] and last[f"{LEARNT[kind]}_rmse"] < 0.8 * first[f"{LEARNT[kind]}_rmse"]
    final = {line["subset"]: line["errors"]["all"] for line in lines if line["kind"] == "final"}
    for subset, count in (("train", 32), ("valid", 10)):
        stress, virials = final[subset]["stress"], final[subset]["virials_per_atom"]
        assert stress["count"] == virials["count"] == 9 * count and 0 < stress["mae"] <= stress["rmse"] < 1 and virials["rmse"] > 0
    table = capsys.readouterr().out
    assert all(f"{error} {column}" in table for error in ("MAE", "RMSE") for column in ("stress meV/Å³", "virial meV/atom"))
    assert f"{1000 * final['valid']['stress']['mae']:.4g}" in table
    if kind == "stress":
        errors = stresses(outcome.model_path, crystals("test", 10)) - [structure.stress for structure in crystals("test", 10)]
        assert final["valid"]["stress"]["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-9)
        assert final["valid"]["stress"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)


def stresses(model_path: Path | None, structures: list[Structure]) -> np.ndarray:
    """[n, 3, 3] eV/Angstrom^3, as a user of the model file gets them."""
    assert model_path is not None
    calculator = macejax.Calculator(model_path)
    return np.array([calculator.get_stress(to_atoms(structure)) for structure in structures])[:, VOIGT].reshape(-1, 3, 3)
