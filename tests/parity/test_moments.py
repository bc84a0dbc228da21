"""Live against mace-torch: dipoles, polarizabilities, energies, and their derivatives by positions; and the way back to mace-torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the frozen fixtures hold the parity")
pytest.importorskip("mace", reason="mace-torch is not installed: the frozen fixtures hold the parity")

from macejax.checkpoint.torch_basis import TorchImportError
from macejax.checkpoint.torch_export import save_torch, to_torch
from macejax.checkpoint.torch_file import load_torch
from macejax.checkpoint.torch_import import from_torch
from tests.parity import moments, reference

pytestmark = pytest.mark.torch

DEFAULT = "EnergyDipolesMACE"  # a frozen answer stands for AtomicDielectricMACE
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one-layer": ("AtomicDipolesMACE", {"num_interactions": 1, "seed": 41}),
    "dipoles-scalar-readout": ("AtomicDipolesMACE", {"readout": "5x0e", "seed": 42}),
    "three-layers-tanh": ("AtomicDielectricMACE", {"num_interactions": 3, "readout": "3x0e + 2x1o", "gate": "tanh", "seed": 43}),
    "no-gate-density": (
        "EnergyDipolesMACE",
        {"gate": "none", "readout": "4x1o", "first": "RealAgnosticDensity", "interaction": "RealAgnosticDensityResidual", "seed": 44},
    ),
    "no-second-degree": ("AtomicDielectricMACE", {"hidden": "4x0e + 4x1o", "readout": "3x0e + 2x1o + 2x2e", "seed": 45}),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == DEFAULT else pytest.mark.slow) for name in moments.CASES])
def test_moments_and_files(name: str, tmp_path: Path) -> None:
    module = moments.random_module(name, **moments.CASES[name])
    model = from_torch(module)
    assert model.config.contraction_basis == "full"
    answer = moments.evaluator(model)
    for structure in moments.STRUCTURES:
        atoms = moments.charged(reference.STRUCTURES[structure]())
        moments.assert_same(answer(atoms), moments.evaluate(module, atoms))
    # and back, bitwise, through a file that mace-torch reads
    save_torch(tmp_path / "moments.model", model)
    again = load_torch(tmp_path / "moments.model")
    assert again.config == model.config
    returned = dict(to_torch(again).named_parameters())
    for key, parameter in module.named_parameters():
        np.testing.assert_array_equal(returned[key].detach().numpy(), parameter.detach().numpy(), err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str) -> None:
    name, options = VARIANTS[variant]
    module = moments.random_module(name, **{**moments.CASES[name], **options})
    atoms = moments.charged(reference.molecule())
    moments.assert_same(moments.evaluator(from_torch(module))(atoms), moments.evaluate(module, atoms))


def test_the_last_readout_of_atomic_dipoles_is_zero_in_mace_torch() -> None:
    """What the docstring of the model says of mace-torch: the gates of that readout find no scalars."""
    module = moments.random_module("AtomicDipolesMACE", **moments.CASES["AtomicDipolesMACE"])
    outputs: list[Any] = []
    module.readouts[-1].register_forward_hook(lambda _module, _inputs, out: outputs.append(out.detach().numpy()))
    moments.evaluate(module, moments.charged(reference.molecule()))
    assert outputs and not outputs[0].any()


def test_a_module_without_polarizability_is_refused() -> None:
    """mace-torch reads its readouts at the wrong places then."""
    module = moments.random_module("AtomicDielectricMACE", **moments.CASES["AtomicDielectricMACE"], use_polarizability=False)
    with pytest.raises(TorchImportError, match="use_polarizability=False"):
        from_torch(module)
