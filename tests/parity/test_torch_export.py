"""Modules of mace-torch that are made from models: the same function, and the same weights where they came from one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("mace", reason="mace-torch is not installed")

import torch
from ase import units
from ase.md.verlet import VelocityVerlet

import macejax
from macejax.checkpoint.torch_export import TorchExportError, save_torch, to_torch
from macejax.checkpoint.torch_import import from_torch
from macejax.cli.main import main
from tests.parity import ours, reference
from tests.parity.compare import assert_same_answer
from tests.parity.test_mace_torch import VARIANTS

pytestmark = pytest.mark.torch

OPTIONS = {
    "L2": {"hidden": "4x0e + 4x1o + 4x2e"},
    "density, Agnesi, ZBL": {
        "first": "RealAgnosticDensity",
        "interaction": "RealAgnosticDensityResidual",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "MACE, three layers, Soft": {
        "model": "MACE",
        "num_interactions": 3,
        "l_max": 2,
        "correlation": [3, 2, 1],
        "distance_transform": "Soft",
    },
    "heads, NonLinear, edge irreps": {**VARIANTS["nonlinear-heads"], "l_max": 1},
    "inputs, biases": VARIANTS["nonlinear-charged"],
    "attention, so3, Gaussian": VARIANTS["attention-so3-gaussian"],
    "every parity": VARIANTS["every-parity"],
    "attention, charges of atoms": VARIANTS["attention-throughout"],
    "last layer with all irreps": VARIANTS["last-layer-irreps"],
    "one layer": {"num_interactions": 1, "hidden": "4x0e", "gate": "tanh"},
}


SLOW = ("L2", "density, Agnesi, ZBL", "MACE, three layers, Soft", "attention, charges of atoms", "inputs, biases", "one layer")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "dtype"),
    [pytest.param(options, "float64", id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, options in OPTIONS.items()]
    + [pytest.param(OPTIONS["L2"], "float32", id="float32", marks=pytest.mark.slow)],
)
def test_there_and_back_every_weight_is_the_same(options, dtype):
    module = reference.random_module(**options).to(getattr(torch, dtype))
    again = to_torch(from_torch(module))
    assert type(again) is type(module)
    old, new = module.state_dict(), again.state_dict()
    assert list(old) == list(new)
    for name, value in old.items():
        if name in dict(module.named_parameters()):
            assert torch.equal(value, new[name]), name
        else:  # constants: those of a module in float32 are rounded once
            np.testing.assert_allclose(value.numpy(), new[name].numpy(), rtol=1e-6 if dtype == "float32" else 1e-14, atol=1e-14)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("edges-")])
def test_there_and_back_weights_without_effect_are_zeros(name):
    """Irreps that are sent in name alone: their weights are not macejax's, and everything else is as it was."""
    module = reference.random_module(**VARIANTS[name])
    model = from_torch(module)
    again = to_torch(model)
    old, new = dict(module.named_parameters()), dict(again.named_parameters())
    assert list(old) == list(new)
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert changed and all("conv_tp_weights" in name or ".linear" in name for name in changed)
    for key in changed:
        differs = old[key] != new[key]
        assert 0 < differs.sum() < differs.numel() and not new[key][differs].any()
    atoms = reference.molecule()
    expected = reference.evaluate(module, atoms, hessian=False)
    assert_same_answer(reference.evaluate(again, atoms, hessian=False), expected, periodic=False)
    jax.tree.map(np.testing.assert_array_equal, from_torch(again).params, model.params)


@pytest.mark.thorough
def test_a_reduced_basis_is_the_same_function():
    config = macejax.ModelConfig(
        elements=reference.ELEMENTS,
        e0s=tuple(np.linspace(-3.0, -1.0, len(reference.ELEMENTS))),
        cutoff=reference.CUTOFF,
        hidden_irreps="4x0e + 4x1o",
        l_max=2,
        radial_mlp=(16,),
        contraction_basis="reduced",
        avg_num_neighbors=5.0,
        pair_repulsion=True,
        scale=0.7,
        shift=0.1,
    )
    model = macejax.init_model(config, jax.random.key(0), np.float64)
    atoms = reference.molecule()
    module = to_torch(model)
    assert_same_answer(ours.evaluator(model, hessian=False)(atoms), reference.evaluate(module, atoms, hessian=False), periodic=False)
    assert from_torch(module).config.contraction_basis == "full"


@pytest.mark.thorough
def test_a_file_that_mace_torch_loads(tmp_path):
    model = from_torch(reference.random_module())
    macejax.save(tmp_path / "m.mace", model)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "m.mace"), str(tmp_path / "m.model")])
    assert ended.value.code == 0
    loaded = torch.load(tmp_path / "m.model", weights_only=False)
    atoms = reference.crystal()
    assert_same_answer(ours.evaluator(model, hessian=False)(atoms), reference.evaluate(loaded, atoms, hessian=False), periodic=True)
    jax.tree.map(np.testing.assert_array_equal, macejax.load(tmp_path / "m.model").params, model.params)


@pytest.mark.thorough
def test_dynamics_with_the_exported_module_are_the_same(tmp_path):
    """Four steps through ASE, where mace-torch's calculator reads the file."""
    from mace.calculators import MACECalculator

    model = from_torch(reference.random_module())
    save_torch(tmp_path / "m.model", model)
    ends = []
    for calculator in (macejax.Calculator(model), MACECalculator(str(tmp_path / "m.model"), device="cpu", default_dtype="float64")):
        atoms = reference.crystal()
        atoms.calc = calculator
        atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)))
        before = atoms.positions.copy()
        VelocityVerlet(atoms, 1.0 * units.fs).run(4)
        ends.append((atoms.positions, atoms.get_momenta(), atoms.get_potential_energy()))
        assert np.abs(atoms.positions - before).max() > 0.01
    for mine, theirs in zip(*ends, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.thorough
@pytest.mark.multiprocess
def test_the_command_in_a_process_of_its_own(tmp_path):
    """Here mace has been imported before; a user's process has not, and e3nn alone cannot be imported with torch 2.6 or newer."""
    model = Path(__file__).parents[1] / "fixtures" / "parity_one_layer.mace"
    command = [sys.executable, "-m", "macejax.cli.main", "export", str(model), str(tmp_path / "m.model")]
    child = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert child.returncode == 0 and (tmp_path / "m.model").exists(), child.stderr


@pytest.mark.thorough
def test_another_mace_torch_is_named(monkeypatch, tmp_path):
    model = from_torch(reference.random_module())
    monkeypatch.setattr("macejax.checkpoint.torch_export.all_weights", lambda *_: {"node_embedding.linear.weight": np.zeros(7)})
    with pytest.raises(TorchExportError, match=r"other parameters.*node_embedding\.linear\.weight \(7,\)"):
        save_torch(tmp_path / "m.model", model)
    assert not (tmp_path / "m.model").exists()
