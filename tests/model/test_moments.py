"""Dipoles are vectors and polarizabilities tensors, whatever the padding; their derivatives are those of finite differences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from macejax.config import ModelConfig
from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.graph import build_graph, model_graphs
from macejax.data.structure import DataError, Structure
from macejax.model.architecture import check_irreps
from macejax.model.model import Model, build, init_model, parameter_shapes
from macejax.potential import moment_derivatives, predict, predict_moments

NAMES = ("AtomicDipolesMACE", "EnergyDipolesMACE", "AtomicDielectricMACE")
READOUTS = {"AtomicDipolesMACE": "3x1o", "EnergyDipolesMACE": "3x0e + 2x1o", "AtomicDielectricMACE": "3x0e + 2x1o + 3x2e"}
SAME = 1e-12
STEP = 1e-4  # Angstrom


def config(name: str, **options: Any) -> ModelConfig:
    fields: dict[str, Any] = {
        "model": name,
        "elements": (1, 8),
        "e0s": (0.0, 0.0),
        "cutoff": 3.0,
        "num_bessel": 4,
        "hidden_irreps": "3x0e + 3x1o + 3x2e",
        "readout_irreps": READOUTS.get(name, "4x0e"),
        "l_max": 2,
        "correlation": 2,
        "radial_mlp": (8,),
        "avg_num_neighbors": 3.0,
    }
    return ModelConfig(**{**fields, **options})


def molecule() -> Structure:
    """Five atoms, neutral, the charges of their own."""
    positions = np.array([[0.0, 0.0, 0.0], [0.9, 0.2, 0.1], [-0.3, 0.9, 0.2], [1.5, -1.2, 0.6], [0.4, 0.3, 1.1]])
    return Structure(np.array([8, 1, 1, 8, 1]), positions, charges=np.array([-0.8, 0.3, 0.4, -0.3, 0.4]))


def images() -> list[Structure]:
    """The molecule; rotated; rotated and inverted; moved; its first atom displaced by plus and minus a step; an isolated atom; charged."""
    first = molecule()
    rotation = Rotation.random(random_state=5).as_matrix()
    step = np.zeros((5, 3))
    step[0, 1] = STEP
    positions = [first.positions @ rotation.T, -first.positions @ rotation.T, first.positions + [40.0, -30.0, 20.0]]
    positions += [first.positions + step, first.positions - step]
    charged = first._replace(positions=first.positions + [2.0, 0.0, 0.0], charges=first.charges + 0.1, total_charge=0.5)
    alone = Structure(np.array([8]), np.zeros((1, 3)))
    return [first, *(first._replace(positions=x) for x in positions), alone, charged]


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if "Dielectric" in name else pytest.mark.slow) for name in NAMES])
def test_symmetry_derivatives_and_origin(name: str) -> None:
    model = init_model(config(name), jax.random.key(1), jnp.float64)
    apply, graphs = build(model.config).apply, model_graphs(images(), model.config)
    capacity = capacity_for(graphs)
    rows = batch(graphs, capacity._replace(nodes=capacity.nodes + 3, graphs=capacity.graphs + 1), np.float64)
    compute = jax.jit(lambda params, rows: (predict_moments(apply, params, rows), moment_derivatives(apply, params, rows)))
    moments, derivatives = jax.device_get(compute(model.params, rows))
    rotation, dipole = Rotation.random(random_state=5).as_matrix(), moments.dipole
    assert np.abs(moments.atomic_dipoles[:5]).max() > 0.01
    close = {"rtol": SAME, "atol": SAME * np.abs(dipole).max()}
    np.testing.assert_allclose(dipole[1], rotation @ dipole[0], **close)
    np.testing.assert_allclose(dipole[2], -rotation @ dipole[0], **close)
    np.testing.assert_allclose(dipole[3], dipole[0], rtol=0, atol=1e-13 * 40 * 5)  # neutral: rounding of charges times 40 Angstrom
    slope = (dipole[4] - dipole[5]) / (2 * STEP)
    np.testing.assert_allclose(derivatives.dipole[0, :, 1], slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max())
    assert not dipole[8:].any() and np.isfinite(dipole).all() and np.isfinite(derivatives.dipole).all()
    if name == "AtomicDielectricMACE":
        alpha = moments.polarizability
        np.testing.assert_array_equal(alpha, np.swapaxes(alpha, 1, 2))
        for other in (1, 2):
            np.testing.assert_allclose(alpha[other], rotation @ alpha[0] @ rotation.T, rtol=SAME, atol=SAME * np.abs(alpha).max())
        np.testing.assert_allclose(alpha[3], alpha[0], rtol=1e-10)
        slope = (alpha[4] - alpha[5]) / (2 * STEP)
        np.testing.assert_allclose(derivatives.polarizability[0, ..., 1], slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max())
        sums = np.bincount(rows.nodes["graph"], weights=moments.charges, minlength=len(dipole))
        np.testing.assert_allclose(sums, rows.globals["total_charge"], atol=1e-12)
        np.testing.assert_allclose(dipole[7] - dipole[0], 0.1 * molecule().positions.sum(0) + [1.0, 0.0, 0.0], atol=1e-12)
    else:  # a charged molecule: the origin of the input is the origin of the dipole
        debye = 0.20819434
        shift = (0.1 * molecule().positions.sum(0) + [2.0 * 0.5, 0.0, 0.0]) / debye
        np.testing.assert_allclose(dipole[7] - dipole[0], shift, rtol=1e-7)


@pytest.mark.thorough
def test_padding_precision_and_gradients() -> None:
    """The same numbers beside other structures and with more padding; in float32; gradients of everything are finite."""
    model = init_model(config("AtomicDielectricMACE", num_interactions=1), jax.random.key(1), jnp.float64)
    apply, graphs = build(model.config).apply, model_graphs(images(), model.config)
    compute = jax.jit(lambda params, rows: predict_moments(apply, params, rows))
    alone = compute(model.params, batch(graphs[:1], capacity_for(graphs[:1]), np.float64))
    roomy = Capacity(12, 8, 4, 3)
    beside = compute(model.params, batch(graphs[6::-6], roomy, np.float64))
    for name in ("dipole", "polarizability"):
        np.testing.assert_allclose(getattr(beside, name)[1], getattr(alone, name)[0], rtol=SAME, atol=1e-13)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), model.params)
    small = compute(single, batch(graphs[:1], capacity_for(graphs[:1]), np.float32))
    assert small.dipole.dtype == jnp.float32
    np.testing.assert_allclose(small.dipole[0], alone.dipole[0], atol=1e-5 * np.abs(alone.dipole).max())

    def loss(params: Any, positions: jax.Array) -> jax.Array:
        rows = batch(graphs[6:], roomy, np.float64)
        moments = predict_moments(apply, params, rows._replace(nodes=rows.nodes | {"positions": positions}))
        return jnp.sum(moments.dipole**2) + jnp.sum(moments.polarizability**2)

    positions = batch(graphs[6:], roomy, np.float64).nodes["positions"]
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(model.params, positions)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients[1]).max() > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scale": 2.0}, "AtomicDielectricMACE has no scale"),
        ({"pair_repulsion": True}, "has no pair_repulsion"),
        ({"heads": ("a", "b"), "e0s": ((0.0, 0.0), (0.0, 0.0))}, "has no heads"),
        ({"e0s": (1.0, 0.0)}, "its e0s are all 0"),
        ({"correlation": (2, 2)}, "one number"),
        ({"hidden_irreps": "3x0e"}, "at least up to 1o"),
        ({"hidden_irreps": "3x0e + 3x1e"}, "at least up to 1o"),
        ({"readout_irreps": "3x1o + 3x0e"}, "each once"),
        ({"model": "AtomicDipolesMACE", "readout_irreps": "3x0e + 3x1o"}, "not both"),
        ({"model": "EnergyDipolesMACE", "readout_irreps": "3x0e", "radial_basis": "gaussian"}, "has no radial_basis"),
        ({"model": "MACE", "readout_irreps": "3x0e + 3x1o"}, "must be scalars"),
    ],
)
def test_options_that_cannot_act_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_irreps(config("AtomicDielectricMACE", **options))


def test_what_a_model_does_not_predict_is_told() -> None:
    dipoles, energies = config("AtomicDipolesMACE"), config("MACE", hidden_irreps="3x0e")
    graph = batch([build_graph(molecule(), (1, 8), 3.0)], Capacity(6, 8, 2, 2), np.float64)
    models = [Model(c, jax.tree.map(lambda x: jnp.zeros(x.shape), parameter_shapes(c))) for c in (dipoles, energies)]
    prediction = jax.eval_shape(lambda: predict(build(dipoles).apply, models[0].params, graph))
    assert prediction.energy is None and prediction.moments.dipole.shape == (2, 3)
    with pytest.raises(ValueError, match="no dipoles"):
        jax.eval_shape(lambda: predict_moments(build(energies).apply, models[1].params, graph))
    half = Atoms("OH", [[0, 0, 0], [0, 0, 1]])
    with pytest.raises(DataError, match="no charge"):
        model_graphs([Structure(half.numbers, half.positions, charges=np.array([1.0, np.nan]))], dipoles)
