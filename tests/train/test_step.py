"""Reverse-over-forward gradients are those of plain reverse-over-reverse."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from macejax.config import LossConfig, ModelConfig
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graphs
from macejax.model.model import build, init_model
from macejax.potential import predict
from macejax.train.loss import Loss, combine, loss_terms
from macejax.train.step import loss_and_gradient
from tests.train.toy import ELEMENTS, init_params, largest_difference, one_batch, site_energy, structures

SMALL = {
    "elements": ELEMENTS,
    "e0s": (0.0, 0.0, 0.0),
    "cutoff": 3.0,
    "hidden_irreps": "2x0e + 2x1o",
    "l_max": 1,
    "correlation": 2,
    "radial_mlp": (4,),
    "readout_irreps": "2x0e",
    "avg_num_neighbors": 10.0,
}
SAME_GRADIENT = 1e-12  # relative to the largest entry of each array, float64


def reverse_over_reverse(potential, loss, params, graph):
    """Loss and gradient as one would write them down, for reference."""

    def value(params):
        terms = loss.terms(predict(potential, params, graph), graph)
        return combine(loss, {t: pair[0] for t, pair in terms.items()}, {t: pair[1] for t, pair in terms.items()})[0]

    return jax.value_and_grad(value)(params)


def compare(potential, loss, params, graph):
    result = jax.jit(lambda p, b: loss_and_gradient(potential, loss, p, b)[::2])(params, graph)
    expected = jax.jit(lambda p, b: reverse_over_reverse(potential, loss, p, b))(params, graph)
    np.testing.assert_allclose(result[0], expected[0], rtol=SAME_GRADIENT)
    assert max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(expected[1])) > 1e-3
    assert largest_difference(result[1], expected[1]) < SAME_GRADIENT


def every_square() -> Loss:
    """Energy, forces, stress and virials at once."""
    stress, virials = loss_terms(LossConfig(kind="stress")), loss_terms(LossConfig(kind="virials", virials_weight=0.5))
    return Loss({**stress.weights, **virials.weights}, lambda p, b: {**stress.terms(p, b), **virials.terms(p, b)})


@pytest.mark.parametrize("kind", ["squares", "universal", "l1l2"])
def test_equals_reverse_over_reverse(kind):
    loss = (
        every_square() if kind == "squares" else loss_terms(LossConfig(kind=kind, **({"huber_delta": 0.1} if kind == "universal" else {})))
    )
    compare(site_energy, loss, init_params(), one_batch(structures(3)))


def test_the_gradient_of_what_is_frozen_is_zero_and_costs_nothing():
    config = ModelConfig(**SMALL)
    graphs = build_graphs(structures(2), ELEMENTS, config.cutoff)
    made = batch(graphs, capacity_for(graphs), np.float64)
    loss, potential, params = every_square(), build(config).apply, init_model(config, jax.random.key(0), np.float64).params
    trainable = jax.tree_util.tree_map_with_path(lambda path, _: "readout" in jax.tree_util.keystr(path), params)
    assert {True, False} == set(jax.tree.leaves(trainable))
    whole = jax.jit(lambda p, b: loss_and_gradient(potential, loss, p, b).params).lower(params, made).compile()
    part = jax.jit(lambda p, b: loss_and_gradient(potential, loss, p, b, trainable=trainable).params).lower(params, made).compile()
    found, expected = part(params, made), whole(params, made)
    for moves, mine, other in zip(*map(jax.tree.leaves, (trainable, found, expected)), strict=True):
        np.testing.assert_allclose(mine, other if moves else 0, rtol=1e-10, atol=1e-12 * np.abs(other).max())
        assert np.abs(other).max() > 0
    assert part.cost_analysis()["flops"] < 0.8 * whole.cost_analysis()["flops"]


def test_structures_that_are_not_finite_are_named():
    found = structures(3)
    made = one_batch(found)
    loss = loss_terms(LossConfig())
    suspects = jax.jit(lambda graph: loss_and_gradient(site_energy, loss, init_params(), graph).suspects)
    assert suspects(made).tolist() == [-1, -1, -1, -1]
    huge = np.where(made.nodes["graph"][:, None] == 1, 1e200, made.nodes["forces"])
    assert suspects(made._replace(nodes=made.nodes | {"forces": huge})).tolist() == [-1, 1, -1, -1]
    energy = np.where(np.arange(4) == 2, np.inf, made.globals["energy"])
    assert suspects(made._replace(globals=made.globals | {"energy": energy})).tolist() == [-1, -1, 2, -1]
    lost = np.where(made.nodes["graph"][:, None] == 0, np.nan, made.nodes["positions"])
    assert suspects(made._replace(nodes=made.nodes | {"positions": lost})).tolist() == [0, -1, -1, -1]


@pytest.mark.thorough
def test_equals_reverse_over_reverse_for_mace():
    config = ModelConfig(**SMALL)
    graphs = build_graphs(structures(2), ELEMENTS, config.cutoff)
    params = init_model(config, jax.random.key(0), np.float64).params
    compare(build(config).apply, every_square(), params, batch(graphs, capacity_for(graphs), np.float64))
