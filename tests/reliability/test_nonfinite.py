"""Numbers that are not finite: skipped and counted, never learnt from, never the best; too many stop the run and name the frames."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from macejax.checkpoint.load import load_model
from macejax.data.write import write
from macejax.train.guard import NonFiniteError
from macejax.train.log import read_metrics
from macejax.train.loop import train
from tests.reliability.tiny import configuration, shared_steps, waters

OPTIONS = {"run__epochs": 3, "stage_two__enabled": False, "run__log_every": 2, "model__scaling": "no_scaling"}


@pytest.fixture(scope="module", autouse=True)
def steps():
    with shared_steps():
        yield


def options(folder):
    write(folder / "valid.xyz", waters(4, seed=9))
    return OPTIONS | {"data__valid": str(folder / "valid.xyz")}


def with_huge_forces(which):
    """Labels whose squares overflow float64."""
    return [s._replace(forces=np.full((3, 3), 1e200)) if number in which else s for number, s in enumerate(waters(18))]


def test_a_bad_frame_costs_its_steps_and_nothing_else(tmp_path):
    outcome = train(configuration(tmp_path, structures=with_huge_forces({4}), **options(tmp_path)), quiet=True)
    assert int(outcome.state.skipped) == 3 and int(outcome.state.step) == 15
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load_model(outcome.model_path).params))
    told = [line for line in read_metrics(tmp_path / "tiny") if line["kind"] == "skipped"]
    assert len(told) == 3 and all(len(line["frames"]) == 1 and line["frames"][0].endswith("water.xyz:frame 4") for line in told)


def test_many_in_a_row_stop_the_run_and_name_the_frames(tmp_path):
    config = configuration(tmp_path, structures=with_huge_forces(set(range(18))), run__max_skipped=4, **options(tmp_path))
    with pytest.raises(NonFiniteError, match=r"not finite in 4 training steps in a row; the last one held .*water\.xyz:frame \d+"):
        train(config, quiet=True)
    lines = read_metrics(tmp_path / "tiny")
    assert sum(line["kind"] == "skipped" for line in lines) == 4  # the metrics were written before


def test_validation_that_is_not_finite_is_never_the_best(tmp_path):
    write(tmp_path / "bad.xyz", with_huge_forces({0})[:3])
    config = configuration(tmp_path, **OPTIONS, data__valid=str(tmp_path / "bad.xyz"))
    with pytest.raises(FileNotFoundError, match="no validation of .* had a finite loss"):
        train(config, quiet=True)
    assert (
        not (tmp_path / "tiny" / "checkpoints" / "best").exists() and len(list((tmp_path / "tiny" / "checkpoints" / "last").iterdir())) == 2
    )


def test_a_missing_label_is_bitwise_a_label_without_weight(tmp_path):
    """NaN or absent energy and forces, against finite ones of weight 0."""
    missing = [s._replace(energy=math.nan) if n % 2 else s._replace(forces=None) if n == 4 else s for n, s in enumerate(waters(18))]
    unweighted = [
        s._replace(weights={"energy": 0.0}) if n % 2 else s._replace(weights={"forces": 0.0}) if n == 4 else s
        for n, s in enumerate(waters(18))
    ]
    found = []
    for name, structures in (("missing", missing), ("unweighted", unweighted)):
        outcome = train(configuration(tmp_path, name, structures, **options(tmp_path)), quiet=True)
        found.append(outcome.state)
    for left, right in zip(*(jax.tree.leaves(state) for state in found), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    complete = train(configuration(tmp_path, "complete", waters(18), **options(tmp_path)), quiet=True).state
    assert not np.array_equal(complete.params["params"]["node_embedding"]["weight"], found[0].params["params"]["node_embedding"]["weight"])
