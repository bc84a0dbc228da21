"""Live against mace-torch: energies, forces, stress, Hessian and parameter gradients of random modules, far from any initialisation."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the frozen fixtures hold the parity")
pytest.importorskip("mace", reason="mace-torch is not installed: the frozen fixtures hold the parity")

from macejax.checkpoint.torch_basis import contraction_weights
from macejax.checkpoint.torch_import import from_torch
from macejax.checkpoint.torch_names import to_params
from macejax.data.batch import batch
from macejax.model.mace import Model, build
from macejax.potential import predict
from tests.parity import ours, reference
from tests.parity.compare import ENERGY, PARAMETER_GRADIENT, assert_close, assert_same_answer

pytestmark = pytest.mark.torch

HIDDEN = ("4x0e", "4x0e + 4x1o", "4x0e + 4x1o + 4x2e")
PRODUCT = list(itertools.product((1, 2, 3), (0, 1, 2), (1, 2, 3)))
# Every value of every factor in a few compilations, and whether second derivatives, which take longest to compile, are compared too.
COMPACT = {(1, 0, 3): False, (2, 1, 3): True, (2, 2, 1): False, (3, 2, 2): False}
VARIANTS: dict[str, dict[str, Any]] = {
    "residual-first": {"first": "RealAgnosticResidual", "l_max": 2, "seed": 2},
    "agnostic-throughout": {"interaction": "RealAgnostic", "l_max": 2, "correlation": 2, "seed": 3},
    "class-MACE": {"model": "MACE", "l_max": 2, "gate": "tanh", "readout": "5x0e", "seed": 4},
    "correlation-per-layer": {"correlation": [3, 2], "l_max": 2, "gate": "none", "seed": 5},
    "density": {"first": "RealAgnosticDensity", "interaction": "RealAgnosticDensityResidual", "l_max": 2, "seed": 7},
    "density-swapped": {
        "first": "RealAgnosticDensityResidual",
        "interaction": "RealAgnosticDensity",
        "l_max": 1,
        "correlation": 2,
        "seed": 8,
    },
    "agnesi-zbl": {"distance_transform": "Agnesi", "pair_repulsion": True, "l_max": 2, "correlation": 2, "seed": 9},
    "soft": {"distance_transform": "Soft", "pair_repulsion": True, "model": "MACE", "l_max": 1, "correlation": 2, "seed": 10},
    "correlation-4": {"correlation": 4, "l_max": 1, "gate": "abs", "seed": 6},
}


class Case(NamedTuple):
    module: Any
    model: Model
    answer: ours.Answer
    hessian: bool


def make_case(*, hessian: bool, **options: Any) -> Case:
    module = reference.random_module(**options)
    model = from_torch(module)
    return Case(module, model, ours.evaluator(model, hessian=hessian), hessian)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(case, id="{}layers-L{}-nu{}".format(*case), marks=() if case in COMPACT else pytest.mark.slow) for case in PRODUCT
    ],
)
def product_case(request: pytest.FixtureRequest) -> Case:
    layers, degree, correlation = request.param
    options = {"num_interactions": layers, "hidden": HIDDEN[degree], "correlation": correlation, "l_max": 2 if layers == 3 else 3}
    return make_case(**options, hessian=COMPACT.get(request.param, True), seed=1)


@pytest.fixture(scope="module", params=[pytest.param(options, id=name) for name, options in VARIANTS.items()])
def variant_case(request: pytest.FixtureRequest) -> Case:
    return make_case(**request.param, hessian=False)


@pytest.mark.parametrize("structure", reference.STRUCTURES)
def test_layers_degrees_and_correlations(product_case: Case, structure: str) -> None:
    check(product_case, structure)


@pytest.mark.parametrize("structure", ["molecule", "tial"])
def test_variants(variant_case: Case, structure: str) -> None:
    check(variant_case, structure)


def check(case: Case, structure: str) -> None:
    atoms = reference.STRUCTURES[structure]()
    assert case.model.config.contraction_basis == "full"
    assert_same_answer(case.answer(atoms), reference.evaluate(case.module, atoms, hessian=case.hessian), periodic=bool(atoms.pbc.all()))


def test_isolated_atom(variant_case: Case) -> None:
    """An atom without neighbours has an energy (E0, shift and the self-connection's share), and no force."""
    atoms = reference.isolated_atom()
    answer = variant_case.answer(atoms)
    expected = reference.evaluate(variant_case.module, atoms, hessian=False)
    assert_close(answer["node_energy"], expected["node_energy"], ENERGY, "node_energy")
    assert not answer["forces"].any() and not answer["strain_derivative"].any()


@pytest.mark.parametrize("first", ["RealAgnostic", pytest.param("RealAgnosticResidual", marks=pytest.mark.slow)])
def test_parameter_gradient_of_a_force_loss(first: str) -> None:
    """d/d(parameters) of the squared force error, every tensor on its own scale."""
    import torch

    module = reference.random_module(first=first, l_max=2, hidden="4x0e + 4x1o + 4x2e", seed=7)
    atoms = reference.crystal()
    wanted = np.random.default_rng(0).normal(size=(len(atoms), 3))

    forces = module(reference.to_batch(atoms, module), training=True, compute_force=True)["forces"]
    loss = torch.sum((forces - torch.tensor(wanted)) ** 2)
    names, tensors = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    state = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    for name, tensor, gradient in zip(names, tensors, gradients, strict=True):
        state[name] = np.zeros(tensor.shape) if gradient is None else gradient.numpy()

    model = from_torch(module)
    expected = {"params": to_params(model.config, state, contraction_weights(model.config, state)[1])}
    graph = batch([ours.to_graph(atoms, model)], ours.CAPACITY, np.float64)
    apply = build(model.config).apply

    @ours.quick_jit
    def gradient_of_loss(params: Any) -> Any:
        return jax.grad(lambda p: jnp.sum((predict(apply, p, graph).forces[: len(atoms)] - wanted) ** 2))(params)

    computed = gradient_of_loss(jax.tree.map(jnp.asarray, model.params))
    assert jax.tree.structure(computed) == jax.tree.structure(expected)
    for (path, one), (_, other) in zip(jax.tree.leaves_with_path(computed), jax.tree.leaves_with_path(expected), strict=True):
        assert_close(one, other, PARAMETER_GRADIENT, jax.tree_util.keystr(path))
