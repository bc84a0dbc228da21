"""Losses of dipoles and polarizabilities: mace-torch's where every label is there, nothing from a label that is not, and their gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from macejax.model.sites import Sites
from macejax.potential import Moments, Prediction, predict
from macejax.train.loss import combine, loss_terms
from macejax.train.metrics import error_sums, gather_sums, summarize
from macejax.train.step import loss_and_gradient
from macejax.train.table import error_table
from tests.train import toy

KINDS = ("dipole", "dipole_polar", "energy_forces_dipole")
WEIGHTS = {"energy_weight": 3.0, "forces_weight": 7.0, "dipole_weight": 2.0, "polarizability_weight": 5.0}


def structures(count: int) -> list[Any]:
    """Those of the toy, with random dipoles and polarizabilities."""
    random = np.random.default_rng(7)
    found = []
    for structure in toy.structures(count):
        tensor = random.normal(size=(3, 3))
        found.append(structure._replace(dipole=random.normal(size=3), polarizability=tensor + tensor.T))
    return found


def sites(params: Any, vectors: jax.Array, graph: Any) -> Sites:
    """The toy's energy, and moments that depend on the same parameters."""
    energy, scale = toy.site_energy(params, vectors, graph), params["params"]["readout_0"]["linear"]
    own = params["params"]["node_embedding"]["depth"][graph.nodes["species"]][:, None]  # without it, atoms would cancel each other
    arms = jnp.where(graph.nodes["mask"][:, None], own * jnp.sum(jnp.tanh(vectors * scale[0, 0]), axis=1), 0)
    tensor = jnp.concatenate([arms * scale[1, 0], arms**2], axis=1)
    return Sites(energy, jnp.zeros_like(energy), arms * scale[2, 0], jnp.zeros_like(arms), tensor)


def value(kind: str, prediction: Prediction, batch: Any) -> jax.Array:
    loss = loss_terms(toy.loss_config(kind, WEIGHTS))
    terms = loss.terms(prediction, batch)
    return combine(loss, {t: pair[0] for t, pair in terms.items()}, {t: pair[1] for t, pair in terms.items()})[0]


@pytest.fixture(scope="module")
def batch() -> Any:
    return toy.one_batch(structures(4))


@pytest.fixture(scope="module")
def prediction(batch: Any) -> Prediction:
    return jax.jit(lambda params: predict(sites, params, batch))(toy.init_params())


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_equals_mace_torch_where_every_label_is_there(kind: str, batch: Any, prediction: Prediction) -> None:
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("mace.modules.loss")
    real, atoms = batch.globals["mask"], batch.nodes["mask"]
    ones = {
        name: np.where(real, 1.0, 0.0) for name in ("weight", "energy_weight", "forces_weight", "dipole_weight", "polarizability_weight")
    }
    batch = batch._replace(globals=batch.globals | ones)  # mace-torch has no weights there
    names = ("energy", "dipole", "polarizability", *ones)
    ref = Reference({name: torch.tensor(np.asarray(batch.globals[name])[real]) for name in names})
    ref |= {"forces": torch.tensor(batch.nodes["forces"][atoms]), "ptr": torch.tensor(np.concatenate([[0], np.cumsum(batch.n_node[real])]))}
    moments = prediction.moments
    pred = {"energy": prediction.energy[real], "dipole": moments.dipole[real], "polarizability": moments.polarizability[real]}
    pred = {name: torch.tensor(np.asarray(x)) for name, x in (pred | {"forces": prediction.forces[atoms]}).items()}
    e, f, d, p = WEIGHTS.values()
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    losses = {
        "dipole": modules.DipoleSingleLoss(d),
        "dipole_polar": modules.DipolePolarLoss(d, p),
        "energy_forces_dipole": modules.WeightedEnergyForcesDipoleLoss(e, f, d),
    }
    expected = float(losses[kind](Reference(ref), pred))
    torch.set_default_dtype(previous)
    np.testing.assert_allclose(float(value(kind, prediction, batch)), expected, rtol=1e-12)


class Reference(dict):
    """What mace-torch's losses take for a batch."""

    __getattr__ = dict.__getitem__


def test_missing_labels_add_nothing_and_weights_act(batch: Any, prediction: Prediction) -> None:
    gone = batch.globals | {f"{name}_mask": batch.globals[f"{name}_mask"] & (np.arange(5) != 1) for name in ("dipole", "polarizability")}
    spoilt = gone | {
        name: np.where((np.arange(5) == 1).reshape(-1, *[1] * (gone[name].ndim - 1)), np.nan, gone[name]) for name in ("dipole",)
    }
    one, other = (float(value("dipole_polar", prediction, batch._replace(globals=fields))) for fields in (gone, spoilt))
    assert one == other and np.isfinite(one)
    assert one != float(value("dipole_polar", prediction, batch))
    for name in ("weight", "dipole_weight", "polarizability_weight"):
        raised = batch.globals | {name: batch.globals[name] * 2}
        assert float(value("dipole_polar", prediction, batch._replace(globals=raised))) > float(value("dipole_polar", prediction, batch)), (
            name
        )


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_loss(kind: str, batch: Any) -> None:
    """Reverse over forward mode with moments beside energies, against jax.grad of the whole; with no energies at all where the loss needs
    none.
    """
    params, loss = toy.init_params(), loss_terms(toy.loss_config(kind, WEIGHTS))
    function = sites if kind == "energy_forces_dipole" else lambda *arguments: sites(*arguments)._replace(energy=None)
    found = jax.jit(lambda params: loss_and_gradient(function, loss, params, batch))(params)
    expected, gradient = jax.jit(jax.value_and_grad(lambda params: value(kind, predict(function, params, batch), batch)))(params)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-13)
    assert (np.asarray(found.suspects) == -1).all()
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12 * float(jnp.abs(expected)))
    bad = batch._replace(globals=batch.globals | {"dipole": np.where(np.arange(5)[:, None] == 2, np.inf, batch.globals["dipole"])})
    named = jax.jit(lambda params: loss_and_gradient(function, loss, params, bad).suspects)(params)
    np.testing.assert_array_equal(np.asarray(named), np.where(np.arange(5) == 2, 2, -1))


def test_errors_and_their_table(batch: Any, prediction: Prediction) -> None:
    """Per atom, against plain numpy; a model without energies has no column for them."""
    moments: Moments = prediction.moments
    alone = Prediction(*[None] * 5, moments)
    sums = gather_sums([(jax.device_get(error_sums(alone, batch)), batch.globals["index"])], 4)
    errors = summarize(sums)["all"]
    assert sorted(errors) == ["dipole_per_atom", "polarizability_per_atom"]
    difference = (np.asarray(moments.dipole) - batch.globals["dipole"])[:4] / batch.n_node[:4, None]
    assert errors["dipole_per_atom"].mae == pytest.approx(np.abs(difference).mean(), rel=1e-12)
    assert errors["dipole_per_atom"].rmse == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-12)
    assert errors["polarizability_per_atom"].count == 36
    table = error_table({"all": {"all": errors}}, {"all": {"all": 4}})
    assert table.head[2:4] == ["MAE dipole 10⁻³/atom", "RMSE dipole 10⁻³/atom"] and len(table.head) == 6
