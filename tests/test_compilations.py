"""Recompilation: a long run at changing volume and a training on unlike structures need few programs, and say how many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from ase.build import bulk

from macejax.cache import compilations
from macejax.checkpoint.model_file import save_model
from macejax.cli.main import main
from macejax.config import ModelConfig
from macejax.data.write import write
from macejax.model.model import init_model
from macejax.simulate import Calculator, Ensemble, run_md, run_on_device
from macejax.simulate.program import advance
from macejax.train.log import read_metrics
from macejax.train.loop import train
from tests.reliability.tiny import configuration
from tests.simulate.toy import LATTICE, morse, toy_model
from tests.structures import labelled

FEW = 4
SHAPES = 4 + 2 + 2  # of training at most, of validation, and of the evaluation of the training set


@contextmanager
def compiled() -> Iterator[list[str]]:
    """Names of the programs that jax compiles within, told by jax itself and not by what is under test."""
    names: list[str] = []

    def listen(event: str, _seconds: float, **facts: object) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(facts["fun_name"]))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_change_of_shape_is_seen_and_a_call_again_is_not():
    double = jax.jit(lambda x: 2 * x)
    arrays = [np.ones(3), np.ones(3), np.ones(4)]
    with compilations() as first:
        for x in arrays:
            double(x)
    with compilations() as second:
        for x in arrays:
            double(x)
    double(np.ones(5))
    assert [program.name for program in first] == 2 * ["jit(<lambda>)"] and min(program.seconds for program in first) > 0
    assert not second


def test_an_npt_run_of_1000_steps_through_ase():
    """Compressed by a tenth and let go again: neighbours come and go."""
    atoms = bulk("Cu", cubic=True, a=LATTICE)
    atoms.calc = Calculator(toy_model(), site_energy=morse)
    volume = atoms.get_volume()
    with compiled() as names:
        run_md(atoms, 500, ensemble="npt", timestep=4.0, temperature=300.0, pressure=30.0, barostat_time=200.0)
        assert atoms.get_volume() < 0.9 * volume
        run_md(atoms, 500, ensemble="npt", timestep=4.0, temperature=300.0, pressure=-2.0, barostat_time=200.0)
    assert atoms.get_volume() > volume
    assert 1 <= names.count("jit(evaluate)") == atoms.calc.num_compilations == atoms.calc._evaluate._cache_size() <= FEW
    assert len(set(names)) - 1 <= len(names) - names.count("jit(evaluate)") <= FEW, "and hardly anything else"
    assert atoms.calc.num_rebuilds < 100


@pytest.mark.thorough
def test_an_npt_run_of_1000_steps_on_the_device():
    atoms = bulk("Cu", cubic=True, a=LATTICE)
    volume, before = atoms.get_volume(), advance._cache_size()
    ends = [Ensemble("npt", 4.0, 300.0, None, 100.0, pressure, 200.0) for pressure in (30.0, -5.0)]
    with compiled() as names:
        run_on_device(toy_model(), atoms, 500, ends[0], site_energy=morse)
        assert atoms.get_volume() < 0.9 * volume
        run_on_device(toy_model(), atoms, 500, ends[1], site_energy=morse)
    assert atoms.get_volume() > volume
    # Two programs for the second run, whose atoms begin elsewhere.
    assert 1 <= names.count("jit(advance)") == advance._cache_size() - before <= FEW


@pytest.mark.parametrize("engine", ["ase", "jax"])
def test_the_command_says_how_often_it_compiled(engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(elements=(29,), e0s=(0.0,), cutoff=3.0, hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,), scale=0.1)
    save_model(tmp_path / "m.mace", init_model(config, jax.random.key(0), np.float64))
    bulk("Cu", cubic=True).write(tmp_path / "copper.xyz")
    program = {"ase": "jit(evaluate)", "jax": "jit(advance)"}[engine]
    files = ["-o", str(tmp_path / "md.xyz"), "--log", str(tmp_path / "md.jsonl")]
    with compiled() as names, pytest.raises(SystemExit) as stopped:
        main(["md", str(tmp_path / "m.mace"), str(tmp_path / "copper.xyz"), "--steps", "3", "--engine", engine, *files])
    assert not stopped.value.code and f"compiled {names.count(program)} times" in capsys.readouterr().out
    assert names.count(program) >= 1


@pytest.mark.thorough
def test_five_epochs_on_molecules_and_crystals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 to 12 atoms, with and without cells: as many programs as there are shapes, and none in the last epochs."""
    structures = [labelled(name, seed) for name in ("benzene", "silicon8", "rhombohedral") for seed in range(4)]
    write(tmp_path / "valid.xyz", structures[::4])
    e0s = {symbol: 0.0 for symbol in ("H", "C", "Si", "Bi")}
    options = {"data__e0s": e0s, "data__valid": str(tmp_path / "valid.xyz"), "run__epochs": 5, "stage_two__enabled": False}
    with compiled() as names:
        train(configuration(tmp_path, structures=structures, data__batch_size=3, **options))
    steps = [name for name in names if name == "jit(_fun)"]
    lines = [line for line in read_metrics(tmp_path / "tiny") if line["kind"] == "epoch"]
    counts = [line["compilations"] for line in lines]
    # Those that come last are of the evaluation of the training set, after the last epoch.
    assert len(counts) == 5 and sum(counts) <= len(steps) <= SHAPES
    assert 2 <= counts[0] and not any(counts[2:])
    told = f"compilations: {sum(counts)} steps in "
    assert told in capsys.readouterr().out and told.split(": ")[1] in (tmp_path / "tiny" / "report.html").read_text()
