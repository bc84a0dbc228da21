"""Beside mace-torch's own ASE calculator: names, shapes and values of a committee, and of descriptors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: there is no calculator of mace-torch to compare with")
pytest.importorskip("mace", reason="mace-torch is not installed: there is no calculator of mace-torch to compare with")

import macejax
from macejax.checkpoint.torch_import import from_torch
from tests.parity import reference
from tests.parity.compare import DERIVATIVES, ENERGY, assert_close

pytestmark = pytest.mark.torch
MEMBERS = 2
CANCELLED = 1e-8  # a variance is a difference: less of the digits of its terms is left


@pytest.fixture(scope="module")
def calculators() -> tuple[Any, macejax.Committee]:
    """mace-torch's and ours, of the same members; 4 channels, L = 1, two layers."""
    from mace.calculators import MACECalculator

    modules = [reference.random_module(l_max=1, correlation=2)]
    modules.append(copy.deepcopy(modules[0]))
    modules[1].interactions[0].linear.weight.data.mul_(1.3)
    models = [from_torch(module) for module in modules]  # before their parameters are frozen
    return MACECalculator(models=modules, device="cpu", default_dtype="float64"), macejax.Committee(models)


def test_a_committee_has_the_names_shapes_and_values_of_mace_torch(calculators: tuple[Any, macejax.Committee]) -> None:
    theirs, ours = calculators
    atoms = reference.crystal()
    theirs.calculate(atoms)
    assert {*theirs.implemented_properties} <= {*ours.implemented_properties}
    for name, expected in theirs.results.items():
        tolerance = CANCELLED if name.endswith("_var") else ENERGY if "energ" in name else DERIVATIVES
        found = ours.get_property(name, atoms)
        assert_close(found, expected, tolerance, name)
        assert name == "energies" or isinstance(found, float) == isinstance(expected, float)
    for name in ("energy", "forces", "stress"):
        assert np.abs(theirs.results[f"{name}_var"]).max() > 0 and len(theirs.results[f"{name}_comm"]) == MEMBERS


@pytest.mark.parametrize("invariants_only", [True, False])
@pytest.mark.parametrize("num_layers", [-1, 1, 2])
def test_descriptors_are_those_of_mace_torch(calculators: tuple[Any, macejax.Committee], invariants_only: bool, num_layers: int) -> None:
    theirs, ours = calculators
    atoms = reference.crystal()
    options = {"invariants_only": invariants_only, "num_layers": num_layers}
    expected = theirs.get_descriptors(atoms, **options)
    found = ours.get_descriptors(atoms, **options)
    assert len(found) == len(expected) == MEMBERS
    widths = (4, 4) if invariants_only else (16, 4)
    for one, other in zip(found, expected, strict=True):
        assert other.shape == (len(atoms), sum(widths[: 1 if num_layers == 1 else 2]))
        assert_close(one, other, ENERGY, f"descriptors, {options}")
