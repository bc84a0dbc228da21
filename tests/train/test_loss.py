"""Losses: mace-torch's where every label is there, and nothing at all from a label that is not."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.config import LossConfig
from macejax.config.optimize import TERMS, WITH_DELTA
from macejax.data.batch import batch as make_batch
from macejax.data.batch import capacity_for
from macejax.potential import Prediction, predict
from macejax.train.loss import combine, loss_terms
from tests.train.toy import graphs, init_params, loss_config, one_batch, site_energy, structures

SAME_LOSS = 1e-12  # relative, against mace-torch in float64
KINDS = ("weighted", "ef", "forces_only", "stress", "virials", "huber", "universal", "l1l2")
WEIGHTS = {"energy_weight": 3.0, "forces_weight": 7.0, "stress_weight": 11.0, "virials_weight": 5.0}


def config(kind: str) -> LossConfig:
    return loss_config(kind, WEIGHTS, **({"huber_delta": 0.05} if kind in WITH_DELTA else {}))


def loss_value(kind: str, prediction, batch) -> jax.Array:
    loss = loss_terms(config(kind))
    terms = loss.terms(prediction, batch)
    return combine(loss, {t: pair[0] for t, pair in terms.items()}, {t: pair[1] for t, pair in terms.items()})[0]


@cache
def compiled(kind: str):
    return jax.jit(jax.value_and_grad(partial(loss_value, kind)))


predicted = jax.jit(partial(predict, site_energy, init_params()))


def value_and_gradient(kind: str, batch):
    """The loss of the toy potential, and its gradient with respect to the prediction."""
    return compiled(kind)(predicted(batch), batch)


def changed(batch, **fields):
    """The batch with other entries in globals, or in nodes for `forces` and `forces_mask`."""
    nodes = {name: fields.pop(name) for name in ("forces", "forces_mask") if name in fields}
    return batch._replace(globals=batch.globals | fields, nodes=batch.nodes | nodes)


@pytest.fixture(scope="module")
def batch():
    return one_batch(structures(5))


def test_the_configuration_knows_the_terms_of_every_loss():
    for kind, terms in TERMS.items():
        loss, wider = loss_terms(LossConfig(kind=kind)), loss_terms(LossConfig.model_construct(kind=kind, huber_delta=7.0))
        assert tuple(loss.weights) == terms
        if terms[0] == "energy" and "dipole" not in terms:  # the toy has no dipole
            values = [loss.terms(predicted(one_batch(structures(5))), one_batch(structures(5)))["energy"][0] for loss in (loss, wider)]
            assert (values[0] != values[1]) == (kind in WITH_DELTA)


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1.0, 150.0], ids=["small forces", "large forces"])
def test_equals_mace_torch_where_every_label_is_there(kind, size, batch):
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("mace.modules.loss")
    if kind in ("huber", "universal", "l1l2"):  # mace-torch ignores these weights there
        ignored = (
            {"weight"}
            if kind == "universal"
            else {"weight", "forces_weight"} | ({"energy_weight", "stress_weight"} if kind == "huber" else set())
        )
        ignored -= {"weight"} if kind == "l1l2" else set()
        ones = {name: np.where(batch.globals["mask"], 1.0, 0.0) for name in ignored | ({"weight"} if kind == "l1l2" else set())}
        batch = changed(batch, **ones)
    batch = changed(batch, forces=size * batch.nodes["forces"])
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: predict(site_energy, init_params(), batch))
    prediction = Prediction(*(jnp.asarray(size * random.normal(size=x.shape)) for x in shapes[:5]))

    real, atoms = batch.globals["mask"], batch.nodes["mask"]
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)

    class Reference(dict):
        __getattr__ = dict.__getitem__

    def tensor(x):
        return torch.tensor(np.asarray(x))

    ref = Reference(
        {
            name: tensor(batch.globals[name][real])
            for name in ("energy", "stress", "virials", "weight", "energy_weight", "forces_weight", "stress_weight", "virials_weight")
        }
    )
    ref["forces"] = tensor(batch.nodes["forces"][atoms])
    ref["ptr"] = torch.tensor(np.concatenate([[0], np.cumsum(batch.n_node[real])]))
    pred = {
        "energy": prediction.energy[real],
        "forces": prediction.forces[atoms],
        "stress": prediction.stress[real],
        "virials": -prediction.strain_derivative[real],
    }
    pred = {name: tensor(x) for name, x in pred.items()}
    scalars = {name: value for name, value in WEIGHTS.items()}
    e, f, s, v = (scalars[name] for name in WEIGHTS)
    theirs = {
        "weighted": modules.WeightedEnergyForcesLoss(e, f),
        "ef": modules.WeightedEnergyForcesLoss(e, f),
        "forces_only": modules.WeightedForcesLoss(f),
        "stress": modules.WeightedEnergyForcesStressLoss(e, f, s),
        "virials": modules.WeightedEnergyForcesVirialsLoss(e, f, v),
        "huber": modules.WeightedHuberEnergyForcesStressLoss(e, f, s, 0.05),
        "universal": modules.UniversalLoss(e, f, s, 0.05),
        "l1l2": modules.WeightedEnergyForcesL1L2Loss(e, f),
    }[kind]
    expected = float(theirs(ref, pred))
    torch.set_default_dtype(previous)
    assert expected > 0
    np.testing.assert_allclose(float(loss_value(kind, prediction, batch)), expected, rtol=SAME_LOSS)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_structure_and_label_act_in_every_kind(kind, batch):
    reference = float(value_and_gradient(kind, batch)[0])
    names = loss_terms(config(kind)).weights
    for name in ("weight", *(f"{term}_weight" for term in names)):
        raised = np.where(np.arange(len(batch.n_node)) == 1, 3 * batch.globals[name], batch.globals[name])
        assert float(value_and_gradient(kind, changed(batch, **{name: raised}))[0]) > reference * (1 + 1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_label_is_bitwise_a_label_of_weight_zero(kind, batch):
    """T7: loss and gradient, with NaN, inf and a number where there is no label."""
    found = []
    atoms = (batch.nodes["graph"] == 1)[:, None]
    structure = np.arange(len(batch.n_node)) == 1
    for junk in (np.nan, np.inf, 0.5):
        masked = {"forces": np.where(atoms, junk, batch.nodes["forces"]), "forces_mask": batch.nodes["forces_mask"] & ~atoms}
        for name in ("energy", "stress", "virials"):
            place = structure.reshape((-1,) + (1,) * (batch.globals[name].ndim - 1))
            masked[name] = np.where(place, junk, batch.globals[name])
            masked[f"{name}_mask"] = batch.globals[f"{name}_mask"] & ~structure
        found.append(value_and_gradient(kind, changed(batch, **masked)))
    for name in ("weight", None):
        names = [name] if name else ["energy_weight", "forces_weight", "stress_weight", "virials_weight"]
        found.append(value_and_gradient(kind, changed(batch, **{n: np.where(structure, 0.0, batch.globals[n]) for n in names})))
    first = jax.tree.leaves(found[0])
    assert all(np.isfinite(leaf).all() for leaf in first)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(first, jax.tree.leaves(other), strict=True))  # -0 equals 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_over_labels_present(kind, batch):
    """Taking all labels from a structure is the same as taking the structure away."""
    found = structures(5)
    capacity = capacity_for(graphs(found))
    unlabelled = [s if i != 1 else s._replace(energy=float("nan"), forces=None, stress=None) for i, s in enumerate(found)]
    shorter = [s for i, s in enumerate(found) if i != 1]
    with_gap, without = (float(value_and_gradient(kind, make_batch(graphs(x), capacity, np.float64))[0]) for x in (unlabelled, shorter))
    np.testing.assert_allclose(with_gap, without, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_no_label_at_all_gives_zero(kind):
    value, gradient = value_and_gradient(kind, one_batch(structures(5, labels=())))
    assert float(value) == 0 and all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


def test_one_component_of_a_force_may_be_missing(batch):
    mask = batch.nodes["forces_mask"].copy()
    mask[0, 1] = False
    prediction = predicted(batch)
    error = np.asarray(prediction.forces) - batch.nodes["forces"]
    weight = (batch.globals["weight"] * batch.globals["forces_weight"])[batch.nodes["graph"]][:, None]
    expected = WEIGHTS["forces_weight"] * (weight * error**2)[mask].mean()
    np.testing.assert_allclose(loss_value("forces_only", prediction, changed(batch, forces_mask=mask)), expected, rtol=1e-12)


def test_gradient_is_finite_at_zero_error(batch):
    prediction = predicted(batch)
    for kind in KINDS:
        perfect = changed(
            batch, energy=prediction.energy, stress=prediction.stress, virials=-prediction.strain_derivative, forces=prediction.forces
        )
        value, gradient = compiled(kind)(prediction, perfect)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)), kind
        assert float(value) < 1e-15


def test_a_structure_without_volume_has_no_stress_and_no_nan():
    molecule = structures(1)[0]._replace(cell=np.zeros((3, 3)), pbc=np.zeros(3, bool), stress=None, source="molecule")
    batch = one_batch([molecule, *structures(2)])

    def value(params):
        return loss_value("stress", predict(site_energy, params, batch), batch)

    assert np.isnan(np.asarray(jax.jit(partial(predict, site_energy))(init_params(), batch).stress[0])).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.value_and_grad(value))(init_params())))


def test_ef_weighs_both_alike_where_nothing_is_said():
    assert loss_terms(LossConfig(kind="ef")).weights == {"energy": 1, "forces": 1}
    assert loss_terms(LossConfig(kind="ef", forces_weight=7)).weights == {"energy": 1, "forces": 7}
    assert loss_terms(LossConfig()).weights == {"energy": 1, "forces": 100}


def test_a_loss_without_weights_is_refused():
    with pytest.raises(ValueError, match="weight 0 on each of its terms"):
        loss_terms(LossConfig(kind="forces_only", forces_weight=0))
