"""T10: metrics do not know of batches."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from macejax.config import LossConfig
from macejax.data.batch import batch, capacity_for
from macejax.potential import predict
from macejax.train.loss import loss_terms
from macejax.train.metrics import ALL, error_sums, gather_sums, mean_loss, summarize
from macejax.train.validate import group_sizes
from tests.train.toy import graphs, init_params, site_energy, structures

EXACT = 1e-12  # relative, float64
ROUNDED = 1e-6  # relative, float32
LOSS = loss_terms(LossConfig(kind="stress"))
DATA = structures(7)
DATA[2] = DATA[2]._replace(energy=float("nan"))
DATA[4] = DATA[4]._replace(forces=None, stress=None)


@jax.jit
def evaluate(batch):
    prediction = predict(site_energy, init_params(dtype=batch.nodes["positions"].dtype), batch)
    return prediction, error_sums(prediction, batch), LOSS.terms(prediction, batch)


def batches(groups, capacity=None, dtype=np.float64):
    made = graphs(DATA)
    capacity = capacity or capacity_for(made)
    return [batch([made[i] for i in group], capacity, dtype) for group in groups]


def summary(groups, capacity=None, dtype=np.float64):
    made = batches(groups, capacity, dtype)
    results = [evaluate(b) for b in made]
    sums = gather_sums([(r[1], b.globals["index"]) for r, b in zip(results, made, strict=True)], len(DATA))
    return summarize(sums, [s.config_type for s in DATA]), mean_loss(LOSS, [r[2] for r in results])


@pytest.fixture(scope="module")
def whole():
    return summary([range(7)])


@pytest.mark.parametrize("groups", [[[6, 0], [3, 5, 1], [4, 2]], [[i] for i in (5, 3, 0, 6, 1, 2, 4)]], ids=["shuffled", "one by one"])
def test_independent_of_batch_size_order_and_packing(groups, whole):
    larger = capacity_for(graphs(DATA))
    larger = larger._replace(nodes=larger.nodes + 5, slots=larger.slots + 4, graphs=larger.graphs + 2)
    for capacity in (None, larger):
        errors, loss = summary(groups, capacity)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=EXACT), errors, whole[0])
        jax.tree.map(partial(np.testing.assert_allclose, rtol=EXACT), loss, whole[1])


def test_independent_of_them_in_float32_too():
    errors, loss = summary([range(7)], dtype=np.float32)
    for groups in ([[6, 0], [3, 5, 1], [4, 2]], [[i] for i in (5, 3, 0, 6, 1, 2, 4)]):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=ROUNDED), summary(groups, dtype=np.float32), (errors, loss))


def test_the_numbers_are_those_of_numpy(whole):
    """MAE and RMSE written out per structure, over labels present, in all and per config_type."""
    errors, _ = whole
    made = batches([[i] for i in range(7)])
    predictions = [evaluate(b)[0] for b in made]
    chosen = {ALL: range(7), "bulk": range(0, 7, 2), "cluster": range(1, 7, 2)}
    assert list(errors) == list(chosen)
    for group, members in chosen.items():
        per_atom, total, forces, stress, virials = [], [], [], [], []
        for i in members:
            s, p, volume = DATA[i], predictions[i], abs(np.linalg.det(DATA[i].cell))
            n = len(s.numbers)
            if np.isfinite(s.energy):
                total.append([float(p.energy[0]) - s.energy, s.energy])
                per_atom.append([(float(p.energy[0]) - s.energy) / n, s.energy / n])
            if s.forces is not None:
                forces += list(np.stack([np.asarray(p.forces)[:n] - s.forces, s.forces], axis=-1).reshape(-1, 2))
                stress += list(np.stack([np.asarray(p.stress)[0] - s.stress, s.stress], axis=-1).reshape(-1, 2))
                label = -volume * s.stress
                virials += list(np.stack([-np.asarray(p.strain_derivative)[0] - label, label], axis=-1).reshape(-1, 2) / n)
        lists = {"energy": total, "energy_per_atom": per_atom, "forces": forces, "stress": stress, "virials_per_atom": virials}
        assert errors[group].keys() == lists.keys()
        for name, pairs in lists.items():
            error, label = np.asarray(pairs).T
            rmse = np.sqrt(np.mean(error**2))
            expected = (np.abs(error).mean(), rmse, rmse / np.sqrt(np.mean(label**2)), np.abs(error).max(), len(error))
            np.testing.assert_allclose(errors[group][name], expected, rtol=1e-11, err_msg=f"{group} {name}")


def test_loss_of_a_data_set_is_that_of_one_batch(whole):
    terms = evaluate(batches([range(7)])[0])[2]
    expected = sum(LOSS.weights[name] * float(numerator) / float(count) for name, (numerator, count) in terms.items())
    np.testing.assert_allclose(whole[1][0], expected, rtol=EXACT)


def test_a_property_without_labels_has_no_error():
    sums = gather_sums([(evaluate(b)[1], b.globals["index"]) for b in batches([range(7)])], 7)
    no_labels = {"stress": type(sums["stress"])(*(np.zeros(7) for _ in sums["stress"]))}
    found = summarize(no_labels)[ALL]["stress"]
    assert found.count == 0 and np.isnan(found[:4]).all()
    assert mean_loss(LOSS, [{name: (0.0, 0) for name in LOSS.weights}])[0] == 0


def test_every_structure_counts_once():
    for groups, wrong in (([[0, 1], [2, 3]], "4 0 times"), ([range(7), [3]], "3 2 times")):
        with pytest.raises(ValueError, match=f"number {wrong}"):
            summary(groups)


def test_a_config_type_called_all_has_a_line_of_its_own():
    some = [structure._replace(config_type=kind) for structure, kind in zip(structures(3), ("all", "bulk", "all"), strict=True)]
    assert group_sizes(some) == {"config_type all": 2, "bulk": 1, ALL: 3}
