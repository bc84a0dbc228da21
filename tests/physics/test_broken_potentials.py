"""Every broken potential is caught, by the row that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from macejax.testing import edge_cases
from tests.physics import toy
from tests.physics.broken import BROKEN, BROKEN_IN_FLOAT32, CONFIG, anisotropic, bare_atom_has_no_energy, pseudoscalar
from tests.physics.quick import check


@pytest.mark.parametrize("potential", BROKEN, ids=lambda potential: potential.__name__)
def test_broken_potential_is_caught(potential: Callable) -> None:
    assert BROKEN[potential] in failed_rows(potential, rows=[BROKEN[potential]])


@pytest.mark.parametrize("potential", BROKEN_IN_FLOAT32, ids=lambda potential: potential.__name__)
def test_what_breaks_in_float32_is_caught_there(potential: Callable) -> None:
    row = BROKEN_IN_FLOAT32[potential]
    assert row in failed_rows(potential, rows=[row], dtype="float32")


def test_without_parity_mirror_images_may_differ_and_rotations_may_not() -> None:
    config = SimpleNamespace(**CONFIG._asdict(), so3=True)
    found = [check(potential, toy.init(CONFIG), config, rows=[4]) for potential in (pseudoscalar, anisotropic)]
    assert [report.passed for report in found] == [True, False]
    assert any("under SO(3)" in promise.promise for promise in found[0].checks)


def test_energy_of_an_isolated_atom_is_compared_with_the_one_that_is_expected() -> None:
    nothing = dict.fromkeys(CONFIG.elements, 0.0)
    quarter = dict.fromkeys(CONFIG.elements, 0.25)
    assert failed_rows(bare_atom_has_no_energy, rows=[13], atom_energies=nothing) == {13}
    assert failed_rows(bare_atom_has_no_energy, rows=[13], atom_energies=quarter) == set()


def test_features_of_other_irreps_than_they_claim_are_caught() -> None:
    arguments = (toy.make(CONFIG), toy.init(CONFIG), CONFIG)
    options = {"rows": [4], "features": toy.features(CONFIG)}
    report = check(*arguments, feature_irreps=["0e+1e"], **options)
    assert {found.promise for found in report.failures} == {"features turn as their irreps, relative"}
    with pytest.raises(ValueError, match="1 arrays, but feature_irreps names 2"):
        check(*arguments, feature_irreps=["0e+1o", "0e"], **options)


def test_an_element_that_is_not_refused_by_name_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses_without_a_name(structure, elements, cutoff):
        raise edge_cases.DataError("7 is not in list")

    monkeypatch.setattr(edge_cases, "build_graph", refuses_without_a_name)
    assert failed_rows(toy.make(CONFIG), rows=[20]) == {20}


def failed_rows(potential: Callable, **options: object) -> set[int]:
    """The rows that the potential does not pass."""
    report = check(potential, toy.init(CONFIG), CONFIG, **options)
    assert all(np.isfinite(found.threshold) for found in report.checks)
    return {found.row for found in report.failures}
