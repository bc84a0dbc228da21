"""What simulations write: no labels of the start on frames of elsewhere, and never two outputs in one file."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

from macejax.checkpoint.model_file import save_model
from macejax.cli.main import main
from macejax.config import ConfigError, ModelConfig
from macejax.data.read import read as read_labelled
from macejax.data.structure import LABELS
from macejax.model.model import init_model
from macejax.simulate import Calculator, recorder, relax_many, run_many, run_md, run_on_device
from macejax.simulate.many import record_each, relax_one_by_one
from macejax.simulate.many.files import saving
from macejax.simulate.record import refuse_same
from tests.simulate.toy import morse, toy_model

KEPT = {"config_type": "wet", "config_weight": 2.0, "head": "Default", "charge": 1.0, "spin": 2.0, "total_charge": 1.0, "elec_temp": 300.0}


def labelled():
    """Water with every label that a file may have, and with what a model may read."""
    atoms = molecule("H2O")
    atoms.positions *= 2.5  # the toy's bonds are those of copper
    tensor = np.eye(3)
    atoms.info |= {"REF_energy": -99.0, "energy": -98.0, "REF_stress": tensor, "stress": tensor, "REF_virials": tensor}
    atoms.info |= {"dipole": np.ones(3), "polarizability": tensor, **{f"config_{name}_weight": 0.5 for name in LABELS}, **KEPT}
    for name in ("REF_forces", "forces"):
        atoms.set_array(name, np.ones((3, 3)))
    for name in ("REF_charges", "Qs"):
        atoms.set_array(name, np.ones(3))
    return atoms


def small_mace():
    config = ModelConfig(elements=(1, 8), e0s=(-1.0, -2.0), cutoff=3.0, hidden_irreps="2x0e", l_max=1, correlation=1, radial_mlp=(4,))
    return init_model(config, jax.random.key(0), np.float64)


def has_no_label_of_the_start(frame) -> None:
    assert {name: frame.info[name] for name in KEPT} == KEPT
    assert not {*frame.info} & {"REF_energy", "REF_stress", "REF_virials", "dipole", "polarizability"}
    assert not any(f"config_{name}_weight" in frame.info for name in LABELS)
    assert {*frame.arrays} - {"momenta", "structure"} == {"numbers", "positions", "REF_charges", "Qs"}
    assert "energy" in frame.calc.results and abs(frame.get_potential_energy() + 98) > 10 and np.abs(frame.get_forces() - 1).min() > 1e-3


def written_by_md(path):
    atoms = labelled()
    atoms.calc = Calculator(toy_model(), site_energy=morse)
    with recorder(path) as record:
        run_md(atoms, 2, every=1, observe=record)


def written_on_the_device(path):
    with recorder(path) as record:
        run_on_device(toy_model(), labelled(), 2, every=1, observe=record, site_energy=morse)


def written_by_many(path):
    record = record_each(path.parent)
    found = run_many(toy_model(), [labelled()], 2, every=1, observe=record, site_energy=morse).runs[0]
    for frame in (found.atoms, *found.frames):
        has_no_label_of_the_start(frame)
    (path.parent / "0.xyz").rename(path)


def written_by_relaxation(path):
    with saving(path, path.with_name("steps.xyz"), None, {}, False) as (observe, keep):
        found = relax_many(toy_model(), [labelled()], steps=2, observe=observe, on_result=keep, site_energy=morse).results
    for frame in (found[0].atoms, *read(path.with_name("steps.xyz"), ":")):
        has_no_label_of_the_start(frame)


@pytest.mark.parametrize("writing", [written_by_md, written_on_the_device, written_by_many, written_by_relaxation])
def test_labels_of_the_start_are_not_those_of_the_frames(tmp_path, writing):
    writing(tmp_path / "out.xyz")
    frames = read(tmp_path / "out.xyz", ":")
    assert len(frames) == (1 if writing is written_by_relaxation else 3)
    for frame in frames:
        has_no_label_of_the_start(frame)
    for frame, structure in zip(frames, read_labelled(tmp_path / "out.xyz"), strict=True):
        assert structure.energy == pytest.approx(frame.get_potential_energy()) and structure.weights == {} and structure.weight == 2


def test_labels_of_the_start_are_not_those_of_what_ase_relaxed():
    found = relax_one_by_one(small_mace(), [labelled()], steps=1).results[0].atoms
    assert "REF_energy" not in found.info and "REF_forces" not in found.arrays and found.info["charge"] == 1


def test_one_file_for_two_outputs_is_refused(tmp_path):
    path = tmp_path / "folder" / ".." / "one"
    (tmp_path / "folder").mkdir()
    refuse_same({"a": path, "b": tmp_path / "two", "c": None, "d": None})
    with pytest.raises(ConfigError, match="one would be written twice, as a and as b: give each"):
        refuse_same({"a": tmp_path / "one", "b": path})
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with pytest.raises(ConfigError, match="link would be written twice"):
        refuse_same({"a": tmp_path / "one", "b": tmp_path / "link"})
    with pytest.raises(ConfigError, match="as the trajectory and as the log"), recorder(path, path):
        pass
    for ending in (".html", ".PNG"):
        with pytest.raises(ConfigError, match="extended XYZ"), recorder(tmp_path / f"md{ending}"):
            pass


@pytest.mark.parametrize(
    ("arguments", "twice"),
    [
        (("md", "-o", "x.html"), "x.html would be written twice, as the trajectory (--output) and as the report"),
        (("md", "-o", "x.png"), "as its figure"),
        (("md", "-o", "x.xyz", "--log", "x.xyz"), "as --log"),
        (("md", "-o", "x.xyz", "--engine", "jax", "--state", "x.xyz"), "as --state"),
        (("md", "-o", "x.xyz", "--engine", "jax", "--state", "x.html"), "as --state and as the report"),
        (("md", "-o", "x", "--engine", "jax", "--index", ":", "--state", "x/1.jsonl"), "as 1.jsonl in that folder and as --state"),
        (("md", "-o", "x.html", "--engine", "jax", "--index", ":"), "as the folder (--output) and as the report"),
        (("relax", "-o", "x.xyz", "--trajectory", "x.xyz"), "as --output and as --trajectory"),
        (("relax", "-o", "x.xyz", "--log", "x.xyz"), "as --log"),
        (("relax", "-o", "x.xyz", "--log", "x.html"), "as --log and as the report"),
        (("relax", "-o", "x.xyz", "--trajectory", "x.xyz.part"), "as --trajectory"),
        (("relax", "-o", "x.html"), "structures are written as extended XYZ"),
        (("eos", "-o", "x.png"), "as the report (--output) and as its figure"),
        (("phonons", "-o", "x.html", "--save", "x.html"), "as --save"),
        (("phonons", "-o", "x.html", "--save", "x.png"), "as its figure and as --save"),
    ],
)
def test_commands_refuse_one_file_for_two_outputs(tmp_path, monkeypatch, capsys, arguments, twice):
    if arguments[0] == "phonons":
        pytest.importorskip("phonopy", reason="phonopy is not installed")
    monkeypatch.chdir(tmp_path)
    write("water.xyz", [molecule("H2O"), molecule("H2O")])
    save_model("model.mace", small_mace())
    there = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        main([arguments[0], "model.mace", "water.xyz", *arguments[1:], "--overwrite"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and twice in said and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == there
