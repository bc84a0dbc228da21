"""`macejax train` and `macejax evaluate` of models of dipoles, on water whose dipoles are those of fixed charges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import macejax
from macejax.cli.main import main
from macejax.config import ConfigError, dump_config
from macejax.data.labels import Keys
from macejax.data.read import read, to_atoms
from macejax.data.structure import DataError, Structure
from macejax.data.write import write
from macejax.train.log import read_metrics
from macejax.train.loop import train
from tests.reliability.tiny import configuration, waters

CHARGES = np.array([-0.8, 0.4, 0.4])
RUNS: dict[str, dict[str, Any]] = {
    "AtomicDipolesMACE": {"loss__kind": "dipole"},
    "EnergyDipolesMACE": {"loss__kind": "energy_forces_dipole", "data__e0s": {"H": -1.0, "O": -8.0}},
    "AtomicDielectricMACE": {"loss__kind": "dipole_polar"},
}


def polar_waters(count: int) -> list[Structure]:
    """Water with the dipole of fixed charges and a polarizability of its bonds."""
    found = []
    for structure in waters(count):
        bonds = structure.positions[1:] - structure.positions[0]
        alpha = np.eye(3) + 0.3 * bonds.T @ bonds
        found.append(structure._replace(dipole=CHARGES @ structure.positions, polarizability=(alpha + alpha.T) / 2))
    return found


def options(name: str) -> dict[str, Any]:
    small = {"model__hidden_irreps": "2x0e + 2x1o + 2x2e", "model__l_max": 2, "run__epochs": 3, "stage_two__enabled": False}
    return {"model__model": name, "data__e0s": "isolated", **small, **RUNS[name]}


def run(*arguments: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in list(RUNS)[:2]), "AtomicDielectricMACE"])
def test_train_and_evaluate(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structures = polar_waters(22)
    structures[3] = structures[3]._replace(dipole=None, polarizability=None)  # a missing label is no error
    config = configuration(tmp_path, structures=structures, **options(name))
    (tmp_path / "run.yaml").write_text(dump_config(config))
    run("train", tmp_path / "run.yaml", "--quiet")
    losses = [line["loss"] for line in read_metrics(tmp_path / "tiny") if line["kind"] == "validation"]
    assert len(losses) == 4 and min(losses[1:]) < 0.9 * losses[0]
    page = (tmp_path / "tiny" / "report.html").read_text()
    assert "MAE of dipole" in page and "MAE dipole" in page and ("meV/Å" in page) == (name == "EnergyDipolesMACE")
    model = tmp_path / "tiny" / "tiny.mace"
    capsys.readouterr()
    run("info", model)
    described = capsys.readouterr().out
    assert "predicts" in described and ("eV)" in described) == (name == "EnergyDipolesMACE") and "dipole" in described
    run("evaluate", model, tmp_path / "water.xyz", "-o", tmp_path / "out.xyz")
    frames = macejax.read(tmp_path / "out.xyz")
    text = (tmp_path / "out.xyz").read_text()
    assert "MACE_dipole" in text and ("MACE_polarizability" in text) == (name == "AtomicDielectricMACE")
    assert ("MACE_energy" in text) == ("MACE_forces" in text) == (name == "EnergyDipolesMACE")
    names = {"dipole": "MACE_dipole"} | ({"polarizability": "MACE_polarizability"} if name == "AtomicDielectricMACE" else {})
    predicted = read(tmp_path / "out.xyz", Keys(**names))[0]
    atoms = to_atoms(frames[0])
    atoms.calc = macejax.Calculator(model)
    np.testing.assert_allclose(atoms.get_dipole_moment(), predicted.dipole, rtol=1e-9, atol=1e-12)
    if name == "AtomicDielectricMACE":
        np.testing.assert_allclose(atoms.calc.get_property("polarizability"), predicted.polarizability, rtol=1e-9, atol=1e-12)
    else:
        np.testing.assert_allclose(atoms.calc.get_dielectric_derivatives().sum(axis=1), 0, atol=1e-10)  # neutral: nothing but charges


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"loss__kind": "weighted"}, ConfigError, "loss.kind dipole_polar"),
        ({"loss__kind": "energy_forces_dipole"}, ConfigError, "term for energy, which AtomicDielectricMACE does not predict"),
        ({"data__e0s": "average"}, ConfigError, "predicts no energies"),
        ({"data__keys__polarizability": None}, DataError, "no training structure has polarizability"),
    ],
)
def test_runs_that_cannot_be_are_refused(changes: dict[str, Any], error: type[Exception], sentence: str, tmp_path: Path) -> None:
    config = configuration(tmp_path, structures=polar_waters(6), **{**options("AtomicDielectricMACE"), **changes})
    with pytest.raises(error, match=sentence):
        train(config, quiet=True)


def test_a_model_of_energies_has_no_loss_of_dipoles(tmp_path: Path) -> None:
    config = configuration(tmp_path, structures=polar_waters(6), loss__kind="dipole", stage_two__enabled=False)
    with pytest.raises(ConfigError, match="MACE does not predict: choose loss.kind weighted"):
        train(config, quiet=True)


def test_labels_survive_the_file(tmp_path: Path) -> None:
    structures = [structure._replace(charges=CHARGES) for structure in polar_waters(2)]
    write(tmp_path / "labels.xyz", structures)
    for one, other in zip(read(tmp_path / "labels.xyz"), structures, strict=True):
        for field in ("dipole", "polarizability", "charges"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
