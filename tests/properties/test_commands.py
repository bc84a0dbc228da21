"""`macejax eos` and `macejax phonons`: numbers, a figure, a page that needs no network, refusals in a sentence."""

from __future__ import annotations

import re
import sys

import jax
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import write

from macejax.checkpoint.model_file import save_model
from macejax.cli.main import main
from macejax.config import ModelConfig
from macejax.model.model import init_model
from macejax.simulate import Calculator, relax


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small MACE whose random weights happen to hold fcc together."""
    path = tmp_path_factory.mktemp("commands")
    config = ModelConfig(
        elements=(1, 8, 29),
        e0s=(-1.0, -2.0, -3.0),
        cutoff=3.2,
        hidden_irreps="4x0e",
        num_interactions=1,
        l_max=1,
        correlation=1,
        num_bessel=2,
        radial_mlp=(8,),
        scale=30.0,
        avg_num_neighbors=12.0,
        pair_repulsion=True,
    )
    save_model(path / "model.mace", init_model(config, jax.random.key(49), np.float64))
    write(path / "copper.xyz", bulk("Cu", a=3.3))
    write(path / "stretched.xyz", bulk("Cu", a=3.6))
    write(path / "water.xyz", molecule("H2O"))
    held = bulk("Cu", a=3.3, cubic=True)
    held.rattle(0.1, seed=0)
    held.set_constraint(FixAtoms([0, 1]))
    write(path / "held.xyz", held)
    return path


def run(folder, *arguments) -> int:
    files = (".xyz", ".mace", ".html", ".yaml")
    try:
        main([str(folder / argument) if str(argument).endswith(files) else str(argument) for argument in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def is_a_page(path) -> str:
    """The text of a page that holds a figure and refers to nothing elsewhere."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "data:image/png;base64," in text
    assert not re.search(r"(src|href)=.(?!data:)|https?://", text)
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    return text


def test_eos(folder, capsys):
    assert run(folder, "eos", "model.mace", "copper.xyz", "-o", "eos.html", "--strain", "0.03") == 0
    said = capsys.readouterr().out
    modulus, volume = (float(re.search(rf"{name} (-?[\d.]+)", said)[1]) for name in ("bulk modulus", "volume"))
    atoms = bulk("Cu", a=3.3)
    atoms.calc = Calculator(folder / "model.mace")
    relax(atoms, cell=True, fmax=1e-5)
    assert volume == pytest.approx(atoms.get_volume(), rel=5e-3)
    h = 1e-3
    pressures = []
    for scale in (1 - h, 1 + h):
        image = atoms.copy()
        image.calc = atoms.calc
        image.set_cell(atoms.cell * scale, scale_atoms=True)
        pressures.append(-image.get_stress()[:3].mean() * 160.21766)
    assert modulus == pytest.approx((pressures[0] - pressures[1]) / (6 * h), rel=0.05)
    assert f"{modulus:.2f} GPa" in is_a_page(folder / "eos.html")
    assert run(folder, "eos", "model.mace", "copper.xyz", "-o", "eos.html") == 1  # never over a report that is there
    assert "exists already" in capsys.readouterr().err


@pytest.mark.thorough
def test_phonons(folder, capsys):
    pytest.importorskip("phonopy", reason="phonopy is not installed")
    options = ("--mesh", "10", "--temperature", "300", "--save", "phonopy.yaml")
    assert run(folder, "phonons", "model.mace", "copper.xyz", "-o", "phonons.html", *options) == 0
    said = capsys.readouterr().out
    assert "1 atoms" in said and "4 x 4 x 4, 64 atoms" in said and "UNSTABLE" not in said
    assert re.search(r"^300 .*", said, re.MULTILINE)
    text = is_a_page(folder / "phonons.html")
    assert "zero-point energy" in text and "Heat capacity" not in text  # which is in the figure
    import phonopy

    again = phonopy.load(str(folder / "phonopy.yaml"), log_level=0)
    highest = float(re.search(r"to ([\d.]+) THz", said)[1])
    assert again.run_qpoints([[0.5, 0.5, 0]]).frequencies.max() == pytest.approx(highest, rel=0.05)
    assert run(folder, "phonons", "model.mace", "stretched.xyz", "-o", "bad.html", "--no-relax", "--mesh", "10") == 1
    assert "UNSTABLE" in capsys.readouterr().out and "unstable" in is_a_page(folder / "bad.html")


def test_without_phonopy(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "phonopy", None)
    assert run(folder, "phonons", "model.mace", "copper.xyz", "-o", "x.html") == 2
    assert "pip install 'macejax[phonons]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eos", "model.mace", "water.xyz", "-o", "x.html"), "periodic"),
        (("phonons", "model.mace", "water.xyz", "-o", "x.html"), "periodic"),
        (("eos", "model.mace", "stretched.xyz", "-o", "x.html", "--strain", "0.02"), "relax the cell first"),
        (("eos", "model.mace", "missing.xyz", "-o", "x.html"), "missing.xyz"),
        (("eos", "model.mace", "held.xyz", "-o", "x.html", "--relax"), "constraint (FixAtoms)"),
        (("phonons", "model.mace", "held.xyz", "-o", "x.html"), "constraint (FixAtoms)"),
    ],
)
def test_refusals(folder, capsys, arguments, message):
    if arguments[0] == "phonons":
        pytest.importorskip("phonopy", reason="phonopy is not installed")
    assert run(folder, *arguments) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (folder / "x.html").exists()


@pytest.mark.parametrize(
    ("options", "message"), [(("--supercell", "0", "1", "1"), "once or more"), (("--path", "GQ7", "--no-relax"), "special points, G, K")]
)
def test_phonons_are_refused_before_the_work(folder, capsys, monkeypatch, options, message):
    pytest.importorskip("phonopy", reason="phonopy is not installed")
    monkeypatch.setattr(Calculator, "calculate", None)
    monkeypatch.setattr(Calculator, "get_hessian", None)
    assert run(folder, "phonons", "model.mace", "copper.xyz", "-o", "x.html", *options) == 2
    assert message in capsys.readouterr().err
