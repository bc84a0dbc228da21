"""Precision policies: each acts, or is refused with a sentence; what one costs is measured against float64."""

from __future__ import annotations

from functools import partial
from typing import get_args

import jax
import numpy as np
import pytest
from pydantic import ValidationError

import macejax
from macejax.checkpoint.model_file import save_model
from macejax.cli.main import main
from macejax.cli.options import Dtype
from macejax.config import ConfigError, ModelConfig, Precision, PrecisionName
from macejax.data.batch import capacity_for
from macejax.data.read import from_atoms
from macejax.data.write import write
from macejax.simulate import relax_many, run_many, run_on_device
from macejax.train.evaluate import evaluate
from macejax.train.loop import train
from tests.reliability.tiny import configuration
from tests.structures import atoms, structure

CONFIG = ModelConfig(elements=(1, 6, 8, 14), e0s=(0.0,) * 4, cutoff=3.0, hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,))
NAMES = ("silicon8", "ethanol", "water")
PROMISE = 1e-4  # forces in float32, of the rms force


ENGINES = {
    "run_on_device": lambda model, start, **options: run_on_device(model, start, 1, **options),
    "run_many": lambda model, start, **options: run_many(model, [start], 1, **options),
    "relax_many": lambda model, start, **options: relax_many(model, [start], steps=1, **options),
}


class Told(Exception):
    """Which precision of products was asked for."""


@pytest.fixture(autouse=True)
def x64_stays():
    """Commands set the precision of their process, which here is that of the tests."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def model():
    return macejax.init_model(CONFIG, jax.random.key(0), np.float64)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"parameters": "float64", "compute": "tf32"}, "compute tf32 needs parameters in float32"),
        ({"parameters": "float32", "compute": "float64"}, "not multiplied in float64"),
        ({"parameters": "float64", "geometry": "float32"}, "geometry in float64"),
        ({"parameters": "float16"}, "float16"),
        ({"accumulation": "float64"}, "unknown key 'accumulation'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Precision(**fields)


def test_names_are_policies_and_the_commands_have_the_same():
    assert get_args(Dtype) == get_args(PrecisionName)
    for name in get_args(PrecisionName):
        policy = Precision.of(name)
        assert policy.accumulation == policy.parameters == ("float64" if name == "float64" else "float32")
        assert Precision.of(policy) is policy and policy.geometry == "float64"
        policy.require("gpu")
    Precision.of("bf16").require("tpu")
    with pytest.raises(ConfigError, match="tf32x3 are for gpu; on this tpu"):
        Precision.of("tf32x3").require("tpu")
    with pytest.raises(ConfigError, match=r"dtype must be one of float64, .*not 'half'"):
        Precision.of("half")


def test_a_policy_that_a_cpu_would_not_follow_is_refused_everywhere(model, tmp_path, capsys):
    """XLA:CPU raises for TF32 deep inside, and computes bf16 as float32 without a word."""
    if jax.default_backend() != "cpu":
        pytest.skip("of CPUs")
    sentence = r"products in {} are for gpu.*; on this cpu choose float32 or float64"
    for name in ("tf32", "tf32x3", "bf16"):
        with pytest.raises(ConfigError, match=sentence.format(name)):
            macejax.Calculator(model, dtype=name)
        for run in ENGINES.values():
            with pytest.raises(ConfigError, match=sentence.format(name)):
                run(model, atoms("water"), dtype=name)
        with pytest.raises(ConfigError, match=sentence.format(name)):
            macejax.precision_error(model, [structure("water")], name)
        with pytest.raises(ConfigError, match=sentence.format(name)):
            evaluate(model, [structure("water")], dtype=name)
        with pytest.raises(ConfigError, match=sentence.format(name)):
            train(configuration(tmp_path, run__dtype=name), quiet=True)
    save_model(tmp_path / "m.mace", model)
    atoms("water").write(tmp_path / "w.xyz")
    paths = [str(tmp_path / "m.mace"), str(tmp_path / "w.xyz")]
    old, log = tmp_path / "old.xyz", tmp_path / "md.jsonl"
    old.write_text("kept")
    for command in (["md", "--engine", "ase", "--log", str(log)], ["md", "--engine", "jax", "--log", str(log)], ["relax"]):
        for output in (old, tmp_path / "new.xyz"):
            with pytest.raises(SystemExit) as stopped:
                main([command[0], *paths, *command[1:], "-o", str(output), "--dtype", "tf32", *(["--overwrite"] if output == old else [])])
            assert stopped.value.code == 2 and "matrix products in tf32 are for gpu" in capsys.readouterr().err
    assert old.read_text() == "kept" and not log.exists() and not (tmp_path / "new.xyz").exists()


def test_the_policy_reaches_calculator_engines_evaluation_and_training(model, monkeypatch, tmp_path):
    """Products that a CPU has not are asked for where the device is not asked: the programs have them."""
    monkeypatch.setattr(Precision, "require", lambda *_: None)
    graphs = [macejax.build_graph(structure("water"), CONFIG.elements, CONFIG.cutoff)]
    graph = macejax.batch(graphs, capacity_for(graphs), "float32")
    for name, bf16 in (("float32", False), ("bf16", True)):
        calculator = macejax.Calculator(model, dtype=name)
        with jax.enable_x64(False):
            assert ("bf16" in calculator._evaluate.lower(calculator._params, graph).as_text()) == bf16
    build = macejax.build

    def told(*arguments, matmul_precision=None):
        if matmul_precision is not None:
            raise Told(matmul_precision)
        return build(*arguments)

    for place in ("train.evaluate", "simulate.driver", "simulate.many.systems"):
        monkeypatch.setattr(f"macejax.{place}.build", told)
    monkeypatch.setattr("macejax.train.setup.build", told)
    with pytest.raises(Told, match="BF16_BF16_F32"):
        evaluate(model, [structure("water")], dtype="bf16")
    with pytest.raises(Told, match="BF16_BF16_F32"):
        train(configuration(tmp_path, run__dtype="bf16"), quiet=True)
    with pytest.raises(ConfigError, match="site_energy of your own"):
        macejax.Calculator(model, dtype="bf16", site_energy=lambda *_: None)
    for run in ENGINES.values():
        with pytest.raises(Told, match="BF16_BF16_F32"):
            run(model, atoms("water"), dtype="bf16")
        with pytest.raises(ConfigError, match="site_energy of your own"):
            run(model, atoms("water"), dtype="bf16", site_energy=lambda *_: None)
        with pytest.raises(ConfigError, match="leave geometry at float64"):
            run(model, atoms("water"), dtype=Precision(parameters="float32", geometry="float32"))


@pytest.mark.thorough
def test_float32_is_measured_and_float64_is_exact(model, tmp_path, capsys):
    found = [structure(name) for name in NAMES]
    error = macejax.precision_error(model, found, "float32")
    assert 0 < error.forces_rms <= error.forces_max <= PROMISE / 10 and 0 < error.energy_rms <= error.energy_max < 1e-6
    assert macejax.precision_error(model, found, "float64")[:4] == (0, 0, 0, 0)
    changed = model._replace(params=jax.tree.map(lambda x: 1.01 * x, model.params))
    assert macejax.precision_error(changed, found, "float64", exact=model).forces_max > 1e-3
    save_model(tmp_path / "m.mace", model)
    write(tmp_path / "s.xyz", found)
    with pytest.raises(SystemExit) as stopped:
        options = ["--dtype", "float32", "--precision-error", "-o", str(tmp_path / "o.xyz")]
        main(["evaluate", str(tmp_path / "m.mace"), str(tmp_path / "s.xyz"), *options])
    assert not stopped.value.code and f"float32 against float64: {error}" in capsys.readouterr().out


@pytest.mark.thorough
def test_geometry_in_float32_costs_what_rounding_of_positions_does(model):
    far = atoms("water")
    far += far.copy()
    far.positions[3:] += 3000.0
    kept, rounded = (Precision(parameters="float32", geometry=geometry) for geometry in ("float64", "float32"))
    errors = [macejax.precision_error(model, [from_atoms(far)], policy).forces_max for policy in (kept, rounded)]
    assert errors[0] < PROMISE < errors[1]
    forces = []
    for dtype in ("float64", kept, rounded):
        far.calc = macejax.Calculator(model, dtype=dtype)
        forces.append(far.get_forces())
    assert np.abs(forces[1] - forces[0]).max() < PROMISE * np.abs(forces[0]).max() < np.abs(forces[2] - forces[0]).max()


def test_what_cannot_be_compared_is_refused(model):
    compare = partial(macejax.precision_error, model, precision="float32")
    with pytest.raises(ConfigError, match="all forces"):
        compare([structure("atom_in_vacuum")])
    with pytest.raises(ValueError, match="no structures"):
        compare([])
    dipoles = CONFIG.model_copy(update={"model": "AtomicDipolesMACE"})
    with pytest.raises(ConfigError, match="dipoles alone"):
        macejax.precision_error(model._replace(config=dipoles), [structure("water")], "float32")
