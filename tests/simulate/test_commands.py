"""`macejax relax` and `macejax md`: files in, files out, and refusals in a sentence."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import read, write

from macejax.checkpoint.load import load_model
from macejax.checkpoint.model_file import save_model
from macejax.cli.main import main
from macejax.config import ModelConfig
from macejax.model.model import init_model
from macejax.simulate import run_many


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of a small MACE, and structures."""
    path = tmp_path_factory.mktemp("commands")
    config = ModelConfig(
        elements=(1, 8, 29), e0s=(-1.0, -2.0, -3.0), cutoff=3.0, hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,), scale=0.1
    )
    save_model(path / "model.mace", init_model(config, jax.random.key(0), np.float64))
    write(path / "water.xyz", [molecule("H2O"), molecule("H2O2")])
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.02, seed=0)
    write(path / "copper.xyz", crystal)
    write(path / "gold.xyz", bulk("Au"))
    return path


def run(folder, *arguments) -> int:
    """Exit code of a command, its files in `folder`."""
    try:
        main([str(folder / argument) if str(argument).endswith((".xyz", ".mace", ".jsonl")) else str(argument) for argument in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_relax(folder, capsys):
    assert run(folder, "relax", "model.mace", "water.xyz", "-o", "relaxed.xyz", "--fmax", "0.02", "--log", "relax.jsonl") == 0
    assert "2 of 2 converged" in capsys.readouterr().out
    for frame in read(folder / "relaxed.xyz", ":"):
        assert np.linalg.norm(frame.get_forces(), axis=1).max() <= 0.02
    assert json.loads((folder / "relax.jsonl").read_text().splitlines()[0])["step"] == 0


@pytest.mark.thorough
def test_relax_many_files_with_held_atoms_and_a_report(folder, capsys):
    held = molecule("H2O")
    held.set_constraint(FixAtoms([1]))
    write(folder / "held.xyz", held)
    assert "move_mask" in (folder / "held.xyz").read_text()
    options = ("-o", "batch.xyz", "--fmax", "0.02", "--trajectory", "batch_steps.xyz", "--batch-atoms", "5", "--log", "batch.jsonl")
    assert run(folder, "relax", "model.mace", "held.xyz", "water.xyz", "copper.xyz", *options) == 0
    said = capsys.readouterr().out
    assert "4 of 4 converged" in said and "water.xyz:1" in said and "batch.html" in said
    frames = read(folder / "batch.xyz", ":")
    assert [len(frame) for frame in frames] == [3, 3, 4, 4] and [frame.info["structure"] for frame in frames] == [0, 1, 2, 3]
    np.testing.assert_allclose(frames[0].positions[1], held.positions[1], atol=1e-8, rtol=0)
    assert np.abs(frames[0].positions - held.positions).max() > 1e-3 and frames[0].constraints
    steps = read(folder / "batch_steps.xyz", ":")
    last = {frame.info["structure"]: frame for frame in steps}
    for k, frame in enumerate(frames):
        np.testing.assert_allclose(last[k].positions, frame.positions, atol=1e-7, rtol=0)
        assert sum(step.info["structure"] == k for step in steps) == frame.info["steps"] + 1
    page = (folder / "batch.html").read_text()
    assert page.count("data:image/png;base64") == 1 and "http" not in page and "copper.xyz" in page
    assert (folder / "batch.png").stat().st_size > 10_000
    assert run(folder, "relax", "model.mace", "water.xyz", "-o", "batch.xyz") == 1
    assert "exists already" in capsys.readouterr().err
    for command in (("relax", "-o", "end.traj"), ("relax", "-o", "end.xyz", "--trajectory", "end.traj"), ("evaluate", "-o", "end.traj")):
        assert run(folder, command[0], "model.mace", "water.xyz", *command[1:]) == 2
        assert "end.traj: structures are written as extended XYZ" in capsys.readouterr().err and not list(folder.glob("end.*"))


@pytest.mark.thorough
def test_relax_one_by_one(folder, capsys):
    arguments = ("relax", "model.mace", "water.xyz", "--fmax", "0.02", "--no-report")
    assert run(folder, *arguments, "-o", "one.xyz", "--optimizer", "BFGS") == 0
    assert run(folder, *arguments, "-o", "many.xyz", "--optimizer", "FIRE") == 0
    assert not (folder / "one.html").exists()
    for name in ("one.xyz", "many.xyz"):
        for frame in read(folder / name, ":"):
            assert frame.info["converged"] and np.linalg.norm(frame.get_forces(), axis=1).max() < 0.02
    assert run(folder, *arguments, "-o", "none.xyz", "--optimizer", "BFGS", "--smax", "1") == 2
    assert "--smax" in capsys.readouterr().err


@pytest.mark.thorough
def test_relax_says_when_it_did_not_converge(folder, capsys):
    assert run(folder, "relax", "model.mace", "copper.xyz", "-o", "unfinished.xyz", "--fmax", "1e-9", "--steps", "1", "--cell") == 1
    said = capsys.readouterr().out
    assert "0 of 1 converged" in said and "not converged after 1 steps: the largest force is" in said


def test_md(folder, capsys):
    options = ("-o", "md.xyz", "--log", "md.jsonl", "--steps", "20", "--every", "5", "--temperature", "200")
    assert run(folder, "md", "model.mace", "water.xyz", *options) == 0
    assert "md.xyz" in capsys.readouterr().out
    frames = read(folder / "md.xyz", ":")
    lines = [json.loads(line) for line in (folder / "md.jsonl").read_text().splitlines()]
    assert len(frames) == len(lines) == 5 and len(frames[0]) == 4
    assert lines[-1]["time"] == pytest.approx(10)
    page = (folder / "md.html").read_text()
    assert (folder / "md.png").stat().st_size > 10_000 and "temperature K" in page and "data:image/png" in page and "http" not in page
    assert run(folder, "md", "model.mace", "water.xyz", *options) == 1  # never over a trajectory that is there
    assert "exists already" in capsys.readouterr().err
    assert run(folder, "md", "model.mace", "md.xyz", *options[4:], "-o", "more.xyz", "--log", "more.jsonl") == 0
    start = read(folder / "more.xyz", "0")
    np.testing.assert_allclose(start.get_momenta(), frames[-1].get_momenta(), atol=1e-7, rtol=0)  # velocities of the file are kept


def test_md_on_the_device(folder, capsys):
    """The frames of ASE's engine; and 20 steps in two goes, which write what one go writes."""
    options = ("--every", "5", "--temperature", "200", "--engine", "jax")
    files = ("-o", "device.xyz", "--log", "device.jsonl")
    assert run(folder, "md", "model.mace", "water.xyz", *files, *options, "--steps", "20") == 0
    assert "written to" in capsys.readouterr().out
    assert run(folder, "md", "model.mace", "water.xyz", "-o", "ase.xyz", "--log", "ase.jsonl", *options[:4], "--steps", "20") == 0
    for ours, theirs in zip(read(folder / "device.xyz", ":"), read(folder / "ase.xyz", ":"), strict=True):
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-8, rtol=0)  # as written
        np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-8, rtol=0)
        assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-8)
    two = ("-o", "two.xyz", "--log", "two.jsonl", "--state", str(folder / "two.state"))
    assert run(folder, "md", "model.mace", "water.xyz", *two, *options, "--steps", "10") == 0
    assert run(folder, "md", "model.mace", "water.xyz", *two, *options, "--steps", "20") == 1  # never over a state that is there
    assert "go on from it with --restart" in capsys.readouterr().err
    assert run(folder, "md", "model.mace", "water.xyz", *two, *options, "--steps", "20", "--restart") == 0
    for end in ("xyz", "jsonl"):
        assert (folder / f"two.{end}").read_bytes() == (folder / f"device.{end}").read_bytes()


def test_md_of_many(folder, capsys):
    """Three structures of two files: each does what it does by itself in run_many, and has its files; the page has a line for each."""
    options = ("--engine", "jax", "--steps", "6", "--every", "3", "--ensemble", "nvt", "--index", ":", "-o", str(folder / "several"))
    assert run(folder, "md", "model.mace", "water.xyz", "copper.xyz", *options) == 0
    said = capsys.readouterr().out
    frames = read(folder / "water.xyz", ":") + read(folder / "copper.xyz", ":")
    expected = run_many(load_model(folder / "model.mace"), frames, 6, timestep=0.5, temperature=300.0, ensemble="nvt", every=3).runs
    for k, each in enumerate(expected):
        found = read(folder / "several" / f"{k}.xyz", ":")
        np.testing.assert_allclose(found[-1].positions, each.atoms.positions, atol=1e-8, rtol=0)
        assert [json.loads(line)["step"] for line in (folder / "several" / f"{k}.jsonl").read_text().splitlines()] == [0, 3, 6]
    again = (*options[:-1], str(folder / "again"), "--state", str(folder / "again.state"))  # in two goes: the same files
    assert run(folder, "md", "model.mace", "water.xyz", "copper.xyz", *again, "--steps", "3") == 0
    assert run(folder, "md", "model.mace", "water.xyz", "copper.xyz", *again) == 1  # never over a state that is there
    assert "go on from it with --restart" in capsys.readouterr().err
    assert run(folder, "md", "model.mace", "water.xyz", "copper.xyz", *again, "--restart") == 0
    for path in (folder / "several").iterdir():
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes(), path.name
    page, of_two = ((folder / name).read_text() for name in ("several.html", "again.html"))
    numbers = page.split("<h2>Structures")[1].split("<h2>The run")[0]
    assert numbers in of_two and numbers.count("copper.xyz") == 1
    assert "copper.xyz" in said and "copper.xyz" in page and f"{len(frames)} of {len(frames)}" in page
    for arguments, message in (
        (("--engine", "ase"), "at once on the device only"),
        (("--engine", "jax", "--state", "x", "--log", "y", "--restart"), "--log: for one structure only"),
        (("--engine", "jax", "--restart"), "--restart needs --state"),
    ):
        assert run(folder, "md", "model.mace", "water.xyz", "copper.xyz", *arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("md", "model.mace", "water.xyz", "--thermostat", "csvr"), 2, "--thermostat: for --engine jax only"),
        (("md", "model.mace", "water.xyz", "--state", "x", "--save-every", "3"), 2, "--state, --save-every: for --engine jax only"),
        (("md", "model.mace", "water.xyz", "--engine", "jax", "--save-every", "3"), 2, "does nothing without --state"),
        (("md", "model.mace", "water.xyz", "--engine", "jax", "--restart"), 2, "--restart needs --state"),
        (("md", "model.mace", "water.xyz", "--engine", "jax", "--compressibility", "1"), 2, "nve would ignore compressibility"),
        (("md", "model.mace", "gold.xyz", "--engine", "jax"), 1, "Au"),
        (("md", "model.mace", "gold.xyz"), 1, "Au"),
        (("md", "model.mace", "missing.xyz"), 1, "missing.xyz"),
        (("md", "model.mace", "model.mace"), 1, "no structure could be read"),
        (("md", "water.xyz", "water.xyz"), 1, "water.xyz"),
        (("md", "model.mace", "water.xyz", "--ensemble", "npt"), 2, "periodic"),
        (("md", "model.mace", "water.xyz", "--pressure", "1"), 2, "nve would ignore pressure"),
        (("relax", "model.mace", "water.xyz", "--cell"), 2, "periodic"),
        (("relax", "model.mace", "copper.xyz", "--pressure", "1"), 2, "free cell"),
    ],
)
def test_refusals(folder, capsys, arguments, code, message):
    outputs = ("-o", "refused.xyz", "--overwrite", *(("--log", "refused.jsonl") if arguments[0] == "md" else ()))
    assert run(folder, *arguments, *outputs) == code
    said = capsys.readouterr().err
    assert said.startswith("macejax: ") and message in said and "Traceback" not in said
