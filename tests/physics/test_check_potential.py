"""check_potential lets a sound potential pass, whatever it is, and reports what it found."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from macejax.data.structure import DataError, Structure
from macejax.testing import Report
from macejax.testing.locality import few
from macejax.testing.report import require, worst_of
from tests.marks import rest_is_thorough
from tests.physics import toy
from tests.physics.broken import CONFIG
from tests.physics.quick import check
from tests.structures import ELEMENTS, ZOO, structure


@pytest.mark.parametrize("dtype", rest_is_thorough(["float64", "float32"], ["float64"]))
def test_the_toy_passes_on_its_own_structures(dtype: str) -> None:
    report = check(
        toy.make(CONFIG),
        toy.init(CONFIG),
        CONFIG,
        dtype=dtype,
        features=toy.features(CONFIG),
        feature_irreps=toy.FEATURE_IRREPS,
    )
    assert report.passed, str(report)
    rows = set(range(1, 22)) - ({3, 20} if dtype == "float32" else set())
    assert {found.row for found in report.checks} == rows


@pytest.mark.slow
def test_the_toy_passes_on_the_zoo() -> None:
    config = toy.ToyConfig(ELEMENTS, 4.0)
    zoo = {name: structure(name) for name in ZOO}
    report = check(toy.make(config), toy.init(config), config, structures=zoo, raise_on_failure=True)
    assert report.passed


def test_a_small_potential_is_held_to_the_same_standard() -> None:
    """A millionth of the toy with an error of one part in a hundred: absolute thresholds alone would not see it."""
    sound = toy.make(CONFIG)

    def slightly_anisotropic(params, vectors, graph):
        return 1e-6 * sound(params, vectors * np.array([1.0, 1.0, 1.01]), graph)

    report = check(slightly_anisotropic, toy.init(CONFIG), CONFIG, rows=[4])
    assert report.factor > 1e5 and not report.passed


def test_a_failure_is_an_error_that_says_what_where_and_how_much() -> None:
    checks = (
        worst_of(4, "energy is invariant", 1e-10, [(1e-12, "water"), (2e-3, "slab")]),
        worst_of(5, "order of atoms", 1e-11, [(0.0, "water")]),
    )
    report = Report("float64", 1.0, checks)
    with pytest.raises(AssertionError, match=r"row 4 \(energy is invariant\): 2.000e-03 in structure 'slab', allowed is 1.0e-10") as error:
        require(report)
    assert "row 5" not in str(error.value)
    lines = str(report).splitlines()
    assert len(lines) == 4 and "FAILED" in lines[2] and "slab" in lines[2] and "ok" in lines[3]


def test_raise_on_failure() -> None:
    def energy_of_nothing_but_place(params, vectors, graph):
        return graph.nodes["positions"][:, 0] * graph.nodes["mask"]

    with pytest.raises(AssertionError, match="row 6"):
        check(energy_of_nothing_but_place, toy.init(CONFIG), CONFIG, rows=[6], raise_on_failure=True)


def test_nan_is_the_worst_and_never_passes() -> None:
    worst = worst_of(1, "forces", 1e-6, [(math.inf, "a"), (math.nan, "b"), (0.0, "c")])
    assert not worst.passed
    assert not worst_of(1, "forces", 1e-6, [(math.nan, "b"), (0.0, "c")]).passed


def test_a_promise_tried_on_nothing_does_not_pass() -> None:
    with pytest.raises(ValueError, match="row 3 .* no structure"):
        worst_of(3, "Hessian is symmetric", 1e-6, [])


def test_arguments_that_make_no_sense_are_refused() -> None:
    arguments = (toy.make(CONFIG), toy.init(CONFIG), CONFIG)
    with pytest.raises(ValueError, match="dtype must be"):
        check(*arguments, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"no rows \[22\]"):
        check(*arguments, rows=[1, 22])
    with pytest.raises(ValueError, match=r"no rows \[3\] in float32"):
        check(*arguments, rows=[3], dtype="float32")
    gold = Structure(numbers=np.array([79]), positions=np.zeros((1, 3)))
    with pytest.raises(DataError, match="Au"):
        check(*arguments, structures=[gold])


@pytest.mark.parametrize("name", ["hydrogen_atom", "silicon2"])
def test_one_structure_without_forces_is_enough(name: str) -> None:
    """An atom alone and a perfect crystal: nothing is divided by their forces, and default structures stand beside them."""
    config = toy.ToyConfig((1, 14), 3.5)
    report = check(toy.make(config), toy.init(config), config, structures=[structure(name)], rows=[4, 7, 8, 9, 11, 16, 19])
    assert report.passed, str(report)
    assert report.factor < 1e6


def test_one_structure_shows_what_leaks_to_others() -> None:
    """With nothing beside it there would be nothing to leak to."""
    config = toy.ToyConfig((1, 8), 3.5)
    potential = toy.make(config)

    def leaking(params, vectors, graph):
        return potential(params, vectors, graph) * (1 + 1e-3 * jnp.sum(vectors**2))

    report = check(leaking, toy.init(config), config, structures=[structure("water")], rows=[8, 19])
    assert {found.row for found in report.checks if not found.passed} == {8, 19}


def test_default_structures_stand_beside_the_given_one_and_not_for_it() -> None:
    """Whatever its neighbours are many."""
    config = toy.ToyConfig((29,), 3.5)
    made = {"dense": structure("copper1")}
    defaults = {f"default {k}": Structure(np.full(2, 29), np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.1 * k]])) for k in range(9)}
    assert [*few(SimpleNamespace(structures=made, defaults=defaults, elements=(29,), cutoff=config.cutoff))][0] == "dense"


def test_rows_that_no_structure_suits_take_default_ones() -> None:
    water = structure("water")
    config = toy.ToyConfig((1, 8), 3.5)
    report = check(toy.make(config), toy.init(config), config, structures=[water], rows=[6, 11])
    assert report.passed
    assert {found.row for found in report.checks} == {6, 11}
