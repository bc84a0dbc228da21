"""Training of models with several heads, and of models that read more than the structure."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import macejax
from macejax.cli.main import main
from macejax.data.write import write
from macejax.train.evaluate import evaluate
from macejax.train.loop import train
from tests.reliability.tiny import configuration, waters
from tests.train.test_loop_prepare import two_heads


@pytest.mark.thorough
def test_two_heads_learn_two_potentials(tmp_path, capsys):
    options = {
        "data__e0s": {"xtb": {"H": -1.0, "O": -8.0}, "dft": {"H": -1.0, "O": -10.0}},
        "run__epochs": 12,
        "stage_two__enabled": False,
        "optimizer__learning_rate": 0.03,
        "data__test": str(tmp_path / "test.xyz"),
    }
    write(tmp_path / "test.xyz", two_heads())
    outcome = train(configuration(tmp_path, structures=two_heads(), **options))
    assert "xtb, odd" in capsys.readouterr().out  # errors are tabulated by head
    model = macejax.load(outcome.model_path)
    assert model.config.heads == ("xtb", "dft")
    errors = evaluate(model, two_heads(), dtype=jax.numpy.float64).validation.errors
    forces = [errors[group]["forces"].relative_rmse for group in errors]
    assert max(forces) < 0.5
    # Where the heads are exchanged, the forces are wrong by a factor of two: the readouts have learnt to differ.
    exchanged = [s._replace(head={"xtb": "dft", "dft": "xtb"}[s.head]) for s in two_heads()]
    swapped = evaluate(model, exchanged, dtype=jax.numpy.float64).validation.errors
    assert swapped["all"]["forces"].rmse > 1.3 * errors["all"]["forces"].rmse
    out = tmp_path / "dft.mace"
    for arguments in (["heads", str(outcome.model_path)], ["heads", str(outcome.model_path), str(out), "--select", "dft"]):
        try:
            main(arguments)
        except SystemExit as ended:
            assert ended.code == 0
    assert "xtb: scale" in capsys.readouterr().out and macejax.load(out).config.heads == ("dft",)


@pytest.mark.thorough
def test_a_charge_is_an_input_that_is_learnt(tmp_path):
    """Energies that differ by the charge alone: without it as input no model could tell the structures apart."""
    charged = [s._replace(total_charge=float(n % 2), energy=s.energy + 3.0 * (n % 2)) for n, s in enumerate(waters(22))]
    options = {
        "model__joint_embedding": [{"name": "total_charge", "type": "categorical", "emb_dim": 4, "num_classes": 2}],
        "model__interaction_first": "RealAgnosticResidual",
        "run__epochs": 12,
        "stage_two__enabled": False,
        "optimizer__learning_rate": 0.03,
        "loss__energy_weight": 100.0,
    }
    outcome = train(configuration(tmp_path, structures=charged, **options), quiet=True)
    model = macejax.load(outcome.model_path)
    found = evaluate(model, charged, dtype=jax.numpy.float64)
    predicted = np.array([entry.energy for entry in found.validation.predicted])
    gap = predicted[1::2].mean() - predicted[::2].mean()
    assert abs(gap - 3.0) < 0.5
