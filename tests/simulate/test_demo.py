"""The demo: its data are what they claim, its plumbing holds, and its verdict can be bad."""

from __future__ import annotations

import numpy as np
import pytest

from macejax.cli.main import main
from macejax.data.read import read
from macejax.data.statistics import e0s_from_isolated, split_isolated
from macejax.demo import LIMITS, Result, demo_config
from tests.conftest import REPOSITORY

DEMO = REPOSITORY / "macejax" / "demo"
MOST_BYTES = 2_000_000  # of bundled data, shipped with every wheel


@pytest.mark.parametrize(("system", "frames"), [("ethanol", (800, 200)), ("dry_ice", (100, 40))])
def test_data(system, frames):
    isolated, train = split_isolated(read(DEMO / f"{system}_train.xyz"))
    test = read(DEMO / f"{system}_test.xyz")
    assert (len(train), len(test)) == frames
    assert set(e0s_from_isolated(isolated)) >= set(np.unique(train[0].numbers).tolist())
    for structure in (*train, *test):
        assert np.isfinite(structure.energy) and np.isfinite(structure.forces).all()
        assert (structure.stress is not None) == structure.pbc.all() == (system == "dry_ice")
    seen = {structure.positions.tobytes() for structure in train}
    assert len(seen) == len(train) and not any(structure.positions.tobytes() in seen for structure in test)


def test_data_are_small():
    assert sum(path.stat().st_size for path in DEMO.glob("*.xyz")) < MOST_BYTES


def test_verdict():
    good = Result(force_mae=29.0, relative_force_mae=2.9, energy_mae=1.0, drift=-0.04)
    assert good.failures() == []
    for name, (limit, unit) in LIMITS.items():
        for value in (1.1 * limit, float("nan")):
            (failure,) = good._replace(**{name: value}).failures()
            assert name in failure and unit in failure
    assert len(good._replace(drift=-0.06).failures()) == 1


@pytest.mark.thorough
def test_a_poor_model_fails_the_demo(tmp_path, capsys):
    """One epoch of a tiny model on the test frames: all of the way, and a verdict that says no."""
    small = ("run.epochs=1", "model.num_channels=2", "model.max_L=0", "model.l_max=1", "model.correlation=1", "model.radial_mlp=[8]")
    start = DEMO / "ethanol_train.xyz"
    few = tmp_path / "few.xyz"
    lines = start.read_text().splitlines(keepends=True)
    few.write_text("".join(lines[: 3 * 3 + 40 * 11]))  # three isolated atoms, forty frames
    options = [part for option in (*small, f"data.train={few}", f"data.test={few}", "run.dtype=float64") for part in ("--set", option)]
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--output", str(tmp_path / "run"), "--md-steps", "100", *options])
    said = capsys.readouterr()
    assert stopped.value.code == 1 and "force_mae is" in said.err and "TOO LARGE" in said.out
    report = (tmp_path / "run" / "ethanol" / "report.html").read_text()
    assert "Molecular dynamics" in report and "meV/atom/ps" in report and 'src="http' not in report


def test_the_bundled_configuration_is_valid(tmp_path):
    config = demo_config(tmp_path, {"run.epochs": 3})
    assert config.run.epochs == 3 and config.data.train[0].endswith("ethanol_train.xyz")
