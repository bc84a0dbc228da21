"""Optimizers: torch's, to rounding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from macejax.config import OptimizerConfig, RateFactors, ScheduleConfig
from macejax.train.optimizer import averaged_params, clip_by_global_norm, decay_mask, make_optimizer, rate_factors
from macejax.train.state import eval_params, init_state
from tests.train.toy import init_params

SAME_AS_TORCH = 1e-12  # relative, after STEPS steps in float64
STEPS = 1000
CONSTANT = ScheduleConfig(kind="constant")


def start(seed: int = 0):
    """Two matrices: the first decays, the second does not."""
    random = np.random.default_rng(seed)
    return {"interaction_0": {"linear": jnp.asarray(random.normal(size=(3, 2))), "linear_up": jnp.asarray(random.normal(size=(2, 2)))}}


def objective(a, b, noise, exp):
    """Curved, with gradients that vary over orders of magnitude and never settle."""
    return (exp(noise) * a**2).sum() + (noise[0, 0] * a).sum() + (noise[:2] * b).sum() ** 2 + 0.1 * (b**4).sum()


def run(config: OptimizerConfig, noise):
    params = start()
    optimizer = make_optimizer(config, params, 10)

    @jax.jit
    def train(params, state):
        def step(carry, noise):
            params, state = carry
            gradient = jax.grad(lambda p: objective(p["interaction_0"]["linear"], p["interaction_0"]["linear_up"], noise, jnp.exp))(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), noise)[0]

    return train(params, optimizer.init(params))


@pytest.mark.torch
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["amsgrad", "adam", "amsgradw", "adamw"])
def test_equals_torch(kind, weight_decay):
    torch = pytest.importorskip("torch")
    noise = np.random.default_rng(1).normal(size=(STEPS, 3, 2))
    noise[:20] *= 3  # large gradients first: here the two kinds of amsgrad differ
    params, _ = run(OptimizerConfig(kind=kind, learning_rate=0.01, weight_decay=weight_decay, clip_norm=5.0, schedule=CONSTANT), noise)

    matrices = [torch.tensor(np.asarray(x), requires_grad=True) for x in start()["interaction_0"].values()]
    groups = [{"params": [matrices[0]], "weight_decay": weight_decay}, {"params": [matrices[1]], "weight_decay": 0.0}]
    make = torch.optim.AdamW if kind.endswith("w") else torch.optim.Adam
    optimizer = make(groups, lr=0.01, amsgrad=kind.startswith("amsgrad"))
    clipped = 0
    for sample in torch.tensor(noise):
        optimizer.zero_grad()
        objective(*matrices, sample, torch.exp).backward()
        clipped += float(torch.nn.utils.clip_grad_norm_(matrices, 5.0)) > 5.0
        optimizer.step()
    assert STEPS // 20 < clipped < STEPS - STEPS // 20
    for mine, theirs in zip(params["interaction_0"].values(), matrices, strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=SAME_AS_TORCH, atol=SAME_AS_TORCH)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["amsgrad", "adamw"])
def test_parts_have_rates_of_their_own_as_in_torch(kind):
    """Groups with learning rates of their own; the frozen one is not in the norm by which gradients are clipped."""
    torch = pytest.importorskip("torch")
    noise = np.random.default_rng(1).normal(size=(50, 3, 2))
    tree = {"interaction_0": {"linear": start()["interaction_0"]["linear"]}, "readout_0": start()["interaction_0"]["linear_up"]}
    tree["product_1"] = {"linear": jnp.ones((2, 2))}
    factors = RateFactors(interactions=0.5, readouts=3.0, products=0.0)
    config = OptimizerConfig(kind=kind, weight_decay=0.1, clip_norm=5.0, schedule=CONSTANT, rate_factors=factors)
    optimizer = make_optimizer(config, tree, 10)
    params, state = tree, optimizer.init(tree)
    matrices = [torch.tensor(np.asarray(x), requires_grad=True) for x in (tree["interaction_0"]["linear"], tree["readout_0"])]
    groups = [{"params": matrices[:1], "lr": 0.005, "weight_decay": 0.1}, {"params": matrices[1:], "lr": 0.03, "weight_decay": 0.0}]
    theirs = (torch.optim.Adam if kind == "amsgrad" else torch.optim.AdamW)(groups, amsgrad=kind == "amsgrad")
    for sample in noise:
        gradient = jax.grad(lambda p, s=sample: objective(p["interaction_0"]["linear"], p["readout_0"], s, jnp.exp))(params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        theirs.zero_grad()
        objective(*matrices, torch.tensor(sample), torch.exp).backward()
        torch.nn.utils.clip_grad_norm_(matrices, 5.0)
        theirs.step()
    for mine, expected in zip((params["interaction_0"]["linear"], params["readout_0"]), matrices, strict=True):
        np.testing.assert_allclose(mine, expected.detach().numpy(), rtol=SAME_AS_TORCH, atol=SAME_AS_TORCH)
    np.testing.assert_array_equal(params["product_1"]["linear"], 1.0)  # it decays with the weights, were it not frozen


@pytest.mark.parametrize("kind", ["amsgrad", "adam", "amsgradw", "adamw", "schedulefree"])
def test_what_is_frozen_keeps_its_bits(kind):
    params = {"interaction_0": {"linear": jnp.asarray(np.random.default_rng(0).normal(size=50))}, "readout_0": jnp.ones(3)}
    config = OptimizerConfig(kind=kind, weight_decay=0.1, schedule=CONSTANT, rate_factors=RateFactors(interactions=0.0))
    optimizer = make_optimizer(config, params, 10)
    moved, state = params, optimizer.init(params)
    for _ in range(20):
        gradient = {"interaction_0": {"linear": jnp.zeros(50)}, "readout_0": jnp.ones(3)}
        updates, state = optimizer.update(gradient, state, moved)
        moved = optax.apply_updates(moved, updates)
    np.testing.assert_array_equal(moved["interaction_0"]["linear"], params["interaction_0"]["linear"])
    assert np.all(moved["readout_0"] < 0.99)


def test_every_part_of_a_model_has_a_factor():
    tree = dict.fromkeys(("node_embedding", "joint_embedding", "interaction_1", "product_0", "readout_1", "embedding_readout", "other"))
    found = rate_factors(RateFactors(embedding=2, interactions=3, products=4, readouts=5), {"params": {name: {"w": 0} for name in tree}})
    assert [found["params"][name]["w"] for name in tree] == [2, 2, 3, 4, 5, 5, 1]
    with pytest.raises(ValueError, match="nothing would be trained"):
        RateFactors(embedding=0, interactions=0, products=0, readouts=0)


def test_amsgrad_of_optax_is_another_one():
    """The reason for train/amsgrad.py."""
    params = {"a": jnp.ones(3)}
    ours = make_optimizer(OptimizerConfig(weight_decay=0, clip_norm=None, schedule=CONSTANT), params, 1)
    theirs = optax.amsgrad(0.01)
    gradients = [{"a": jnp.asarray([10.0, 1.0, 0.1]) / (1 + i)} for i in range(5)]
    updates = []
    for optimizer in (ours, theirs):
        state = optimizer.init(params)
        for gradient in gradients:
            update, state = optimizer.update(gradient, state, params)
        updates.append(np.abs(update["a"]))
    assert np.all(updates[0] > 1.2 * updates[1])


@pytest.mark.x32
@pytest.mark.parametrize("kind", ["amsgrad", "adam", "amsgradw", "adamw", "schedulefree"])
def test_float32_parameters_have_float32_updates(kind):
    """With x64 on and off."""
    params = jax.tree.map(lambda x: x.astype(jnp.float32), start())
    optimizer = make_optimizer(OptimizerConfig(kind=kind, schedule=CONSTANT), params, 1)
    state = optimizer.init(params)
    updates, after = optimizer.update(params, state, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype(np.float32)}
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [leaf.dtype for leaf in jax.tree.leaves(state)]
    moved = optax.apply_updates(params, updates)
    change = np.concatenate([np.abs(a - b).ravel() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(params), strict=True)])
    np.testing.assert_allclose(change, 0.01, rtol=1e-4)  # the first step of Adam is the learning rate


def test_only_the_matrices_that_mace_decays():
    tree = {
        "params": {
            "node_embedding": {"weight": 0},
            "interaction_0": {"linear_up": {"0e": 0}, "radial_mlp": {"layer0": 0}, "linear": {"0e": 0, "1o": 0}, "skip": {"0e": 0}},
            "product_0": {"contraction": {"0e": {"1": 0, "3": 0}}, "linear": {"0e": 0}},
            "readout_0": {"linear": 0},
            "readout_1": {"linear_1": 0, "linear_2": 0},
        }
    }
    chosen = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, yes in jax.tree_util.tree_leaves_with_path(decay_mask(tree)) if yes
    ]
    assert chosen == [
        "params/interaction_0/linear/0e",
        "params/interaction_0/linear/1o",
        "params/product_0/contraction/0e/1",
        "params/product_0/contraction/0e/3",
        "params/product_0/linear/0e",
    ]
    assert not any(jax.tree.leaves(decay_mask({"a": 0, "b": [1, 2]})))


def test_clipping_is_torchs():
    gradient = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([[4.0]])}
    clip = clip_by_global_norm(2.0)
    np.testing.assert_allclose(clip.update(gradient, clip.init(gradient))[0]["a"][0], 3 * 2 / (5 + 1e-6), rtol=1e-15)
    small = jax.tree.map(lambda x: x / 10, gradient)
    np.testing.assert_array_equal(clip.update(small, clip.init(small))[0]["b"], small["b"])


def test_schedule_free_is_evaluated_on_its_average():
    """Schedule-free AdamW written out: z moves, x averages, y is where gradients are taken."""
    config = OptimizerConfig(kind="schedulefree", learning_rate=0.02, weight_decay=0.1, clip_norm=None, schedule=CONSTANT)
    noise = 0.1 * np.random.default_rng(2).normal(size=(30, 3, 2))
    params, state = run(config, noise)

    flat = [np.asarray(x) for x in start()["interaction_0"].values()]
    x, y, z = ([m.copy() for m in flat] for _ in range(3))
    second = [np.zeros_like(m) for m in flat]
    for t, sample in enumerate(noise, start=1):
        gradients = jax.grad(lambda ab, sample=sample: objective(*ab, sample, jnp.exp))(y)
        for i, g in enumerate(map(np.asarray, gradients)):
            second[i] = 0.98 * second[i] + 0.02 * g * g
            direction = g / (np.sqrt(second[i] / (1 - 0.98**t)) + 1e-8) + (0.1 * y[i] if i == 0 else 0)
            z[i] = z[i] - 0.02 * direction
            x[i] = (1 - 1 / t) * x[i] + z[i] / t
            y[i] = 0.1 * z[i] + 0.9 * x[i]
    averaged = averaged_params(state, params)
    for mine, average, expected_y, expected_x in zip(
        params["interaction_0"].values(), averaged["interaction_0"].values(), y, x, strict=True
    ):
        np.testing.assert_allclose(mine, expected_y, rtol=1e-10)
        np.testing.assert_allclose(average, expected_x, rtol=1e-10)


def test_evaluation_parameters():
    params = init_params()
    free = make_optimizer(OptimizerConfig(kind="schedulefree", schedule=CONSTANT), params, 1)
    plain = make_optimizer(OptimizerConfig(), params, 1)
    with pytest.raises(ValueError, match="switch the moving average"):
        init_state(params, free, ema=True)
    moved = init_state(params, plain)._replace(params=jax.tree.map(lambda x: x + 1, params))
    assert eval_params(moved) is moved.params
    averaged = init_state(params, plain, ema=True)._replace(params=moved.params)
    jax.tree.map(np.testing.assert_array_equal, eval_params(averaged), params)
