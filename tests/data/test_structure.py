"""What `check` refuses, and what it makes of the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest

from macejax.data.structure import DataError, Structure, check, relative_volume, volume

CUBE = Structure(np.array([14, 14]), np.array([[0.0, 0, 0], [1, 1, 1]]), 4 * np.eye(3), np.ones(3, bool), source="a.xyz:frame 3")
STRESS = np.array([[1.0, 0.1, 0.2], [0.1, 2.0, 0.3], [0.2, 0.3, 3.0]])


def replaced(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    changed = np.array(array, float)
    changed[place] = value
    return changed


REFUSED = {
    "no atoms": ({"numbers": np.zeros(0, int), "positions": np.zeros((0, 3))}, "at least one atom"),
    "Z = 0": ({"numbers": np.array([14, 0])}, "atomic number 0 is no element"),
    "Z = 119": ({"numbers": np.array([14, 119])}, "atomic number 119 is no element"),
    "fractional Z": ({"numbers": np.array([14.0, 1.5])}, "integers"),
    "NaN position": ({"positions": replaced(CUBE.positions, (1, 2), np.nan)}, r"positions holds nan at index \(1, 2\)"),
    "infinite position": ({"positions": replaced(CUBE.positions, (0, 0), np.inf)}, "positions holds inf"),
    "absurd position": ({"positions": replaced(CUBE.positions, (0, 0), 1e300)}, "is the unit right"),
    "missing row": ({"positions": np.zeros((1, 3))}, r"shape \(1, 3\) instead of \(2, 3\)"),
    "NaN cell": ({"cell": replaced(CUBE.cell, (0, 0), np.nan)}, "cell holds nan"),
    "flat cell": ({"cell": np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])}, "no volume along its periodic directions"),
    "no cell": ({"cell": np.zeros((3, 3))}, "no volume along its periodic directions"),
    "flat slab": ({"cell": np.diag([4.0, 0, 4]), "pbc": np.array([True, True, False])}, "pbc TTF"),
    "pbc of numbers": ({"pbc": np.array([1, 1, 1])}, "three booleans"),
    "infinite energy": ({"energy": math.inf}, "energy is infinite"),
    "energy in words": ({"energy": "low"}, "energy must be numbers"),
    "two energies": ({"energy": np.zeros(2)}, "energy has shape"),
    "infinite force": ({"forces": replaced(CUBE.positions, (1, 1), -np.inf)}, r"forces is infinite at index \(1, 1\)"),
    "forces of others": ({"forces": np.zeros((3, 3))}, r"forces has shape \(3, 3\) instead of \(2, 3\)"),
    "half a stress": ({"stress": replaced(STRESS, (0, 0), np.nan)}, "stress is partly NaN"),
    "lopsided stress": ({"stress": replaced(STRESS, (0, 1), 2.0)}, "stress is not symmetric"),
    "stress without volume": ({"stress": STRESS, "cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}, "no volume to which"),
    "wrong sign of virials": ({"stress": STRESS, "virials": 64 * STRESS}, "contradict each other.*Their signs differ"),
    "wrong virials": ({"stress": STRESS, "virials": -32 * STRESS}, "contradict each other"),
    "negative weight": ({"weight": -1.0}, "a weight is 0 or more"),
    "NaN weight": ({"weights": {"energy": np.nan}}, "weight of energy"),
    "weight of nothing": ({"weights": {"mood": 1.0}}, "unknown labels"),
    "NaN charge": ({"total_charge": np.nan}, "total_charge"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_frame_and_reason(case: str) -> None:
    change, reason = REFUSED[case]
    with pytest.raises(DataError, match=r"^a\.xyz:frame 3: .*" + reason):
        check(CUBE._replace(**change))


def test_missing_labels_stay_missing() -> None:
    checked = check(CUBE._replace(energy=np.nan, forces=np.full((2, 3), np.nan), stress=np.full((3, 3), np.nan)))
    assert math.isnan(checked.energy)
    assert checked.forces is None and checked.stress is None and checked.virials is None


def test_partly_missing_forces_stay_partly_missing() -> None:
    forces = replaced(np.ones((2, 3)), (1, 0), np.nan)
    np.testing.assert_array_equal(check(CUBE._replace(forces=forces)).forces, forces)


def test_stress_becomes_exactly_symmetric() -> None:
    checked = check(CUBE._replace(stress=replaced(STRESS, (0, 1), 0.1 + 1e-9)))
    np.testing.assert_array_equal(checked.stress, checked.stress.T)


def test_agreeing_stress_and_virials_pass() -> None:
    check(CUBE._replace(stress=STRESS, virials=-64 * STRESS))


def test_check_does_not_change_its_input() -> None:
    stress = replaced(STRESS, (0, 1), 0.1 + 1e-9)
    before = stress.copy()
    check(CUBE._replace(stress=stress))
    np.testing.assert_array_equal(stress, before)


def test_volume() -> None:
    assert volume(np.diag([2.0, 3, 4])) == pytest.approx(24, rel=1e-14)
    assert volume(np.diag([2.0, -3, 4])) == pytest.approx(24, rel=1e-14)  # left-handed
    assert volume(np.diag([2.0, 3, 0])) == 0
    assert volume(np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])) == 0
    assert volume(np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 1e-9]])) == 0  # flat but for rounding
    assert relative_volume(np.diag([1.0, 1, 50])) == pytest.approx(1)
    assert relative_volume(np.array([[1.0, 0, 0], [1, 1, 0]])) == pytest.approx(math.sqrt(0.5))
    assert relative_volume(np.array([[0.0, 0, 3]])) == pytest.approx(1)
