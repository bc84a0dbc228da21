"""Live against mace-torch: energies, forces, stress, Hessian and parameter gradients of random modules, far from any initialisation."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: the frozen fixtures hold the parity")
pytest.importorskip("mace", reason="mace-torch is not installed: the frozen fixtures hold the parity")

from macejax.checkpoint.torch_basis import contraction_weights
from macejax.checkpoint.torch_import import from_torch
from macejax.checkpoint.torch_names import to_params
from macejax.config import ModelConfig
from macejax.data.batch import batch
from macejax.model.model import Model, build
from macejax.potential import predict
from tests.marks import rest_is_thorough
from tests.parity import ours, reference
from tests.parity.compare import ENERGY, PARAMETER_GRADIENT, assert_close, assert_same_answer

pytestmark = pytest.mark.torch

HIDDEN = ("4x0e", "4x0e + 4x1o", "4x0e + 4x1o + 4x2e")
PRODUCT = list(itertools.product((1, 2, 3), (0, 1, 2), (1, 2, 3)))
# By default every value of every factor in a few compilations, without second derivatives, which take longest to compile.
COMPACT = ((1, 0, 3), (2, 2, 1), (3, 2, 2))
HEADS = {
    "heads": ["PBE", "r2SCAN"],
    "atomic_inter_scale": [0.7, 1.3],
    "atomic_inter_shift": [-0.3, 0.2],
    "atomic_energies": np.array([[-3.0, -2.0, -1.0], [-2.5, -1.7, -0.4]]),
}
EMBEDDINGS = {
    "total_charge": {"type": "categorical", "per": "graph", "emb_dim": 5, "num_classes": 7, "offset": 3},
    "total_spin": {"type": "categorical", "per": "graph", "emb_dim": 4, "num_classes": 4, "offset": 0},
    "elec_temp": {"type": "continuous", "per": "graph", "emb_dim": 3, "in_dim": 1},
}
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
    # The recipe of the MH models.
    "nonlinear-heads": {
        "first": "RealAgnosticResidualNonLinear",
        "interaction": "RealAgnosticResidualNonLinear",
        "hidden": "4x0e + 4x1o",
        "edge_irreps": "2x0e + 2x1o",
        "use_edge_irreps_first": True,
        "use_agnostic_product": True,
        "apply_cutoff": False,
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "l_max": 2,
        "correlation": 2,
        "seed": 11,
        **HEADS,
    },
    # That of OMOL, and what goes with it.
    "nonlinear-charged": {
        "first": "RealAgnosticResidualNonLinear",
        "interaction": "RealAgnosticResidualNonLinear",
        "embedding_specs": EMBEDDINGS,
        "use_embedding_readout": True,
        "readout_cls": "NonLinearBiasReadoutBlock",
        "l_max": 1,
        "correlation": 2,
        "seed": 12,
    },
    "attention-so3-gaussian": {
        "interaction": "RealAgnosticAttResidual",
        "first": "RealAgnosticResidual",
        "use_so3": True,
        "hidden": "4x0e + 4x1e",
        "radial_type": "gaussian",
        "l_max": 2,
        "correlation": 2,
        "seed": 13,
    },
    "every-parity": {
        "hidden": "2x0e + 2x0o + 2x1o + 2x1e",
        "num_interactions": 3,
        "l_max": 1,
        "correlation": [3, 2, 2],
        "use_last_readout_only": True,
        "interaction": "RealAgnostic",
        "edge_irreps": "1x0e + 1x0o + 1x1e",
        "seed": 14,
    },
    "bias-heads": {
        "model": "MACE",
        "readout_cls": "NonLinearBiasReadoutBlock",
        "first": "RealAgnosticDensity",
        "interaction": "RealAgnosticDensityResidual",
        "apply_cutoff": False,
        "l_max": 1,
        "correlation": 2,
        "seed": 15,
        **{name: value for name, value in HEADS.items() if "atomic_inter" not in name},
    },
    "attention-throughout": {
        "interaction": "RealAgnosticAttResidual",
        "first": "RealAgnosticAttResidual",
        "embedding_specs": {"charges": {"type": "continuous", "per": "atom", "emb_dim": 3, "in_dim": 1, "use_bias": False}},
        "l_max": 1,
        "correlation": 2,
        "seed": 16,
    },
    # What is sent has irreps that no feature has: weights without effect, which the normalisations count.
    "edges-beyond-features": {
        "first": "RealAgnosticResidualNonLinear",
        "interaction": "RealAgnosticResidualNonLinear",
        "hidden": "4x0e + 4x1o",
        "edge_irreps": "2x0e + 2x1o + 2x2e",
        "use_edge_irreps_first": True,
        "l_max": 2,
        "correlation": 2,
        "seed": 19,
    },
    "edges-between-features": {
        "interaction": "RealAgnosticDensityResidual",
        "hidden": "4x0e + 4x2e",
        "edge_irreps": "2x0e + 2x1o + 2x2e",
        "l_max": 2,
        "correlation": 2,
        "seed": 20,
    },
    "last-layer-irreps": {
        "hidden": "4x0e + 4x1o",
        "keep_last_layer_irreps": True,
        "first": "RealAgnosticResidual",
        "l_max": 2,
        "correlation": 2,
        "seed": 22,
    },
    "edges-attention": {
        "interaction": "RealAgnosticAttResidual",
        "hidden": "4x0e",
        "edge_irreps": "2x0e + 2x1o",
        "l_max": 1,
        "correlation": 2,
        "seed": 21,
    },
    "2o-and-1e": {"hidden": "2x0e + 2x1e + 2x2o", "num_interactions": 3, "l_max": 2, "correlation": 3, "seed": 17},
}
# Compiled by name: the others run with `-m slow`.
SLOW = ("2o-and-1e", "attention-throughout")
# Of the rest, those that are compared by default; the others run with `make thorough`, and as frozen answers by default.
QUICK = ("agnesi-zbl", "density", "nonlinear-heads")


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
        *(pytest.param((case, {"hessian": False}), id="{}layers-L{}-nu{}, forces".format(*case)) for case in COMPACT),
        *(
            pytest.param(
                (case, {"hessian": True}),
                id="{}layers-L{}-nu{}".format(*case),
                marks=pytest.mark.thorough if case == (2, 1, 3) else pytest.mark.slow,
            )
            for case in PRODUCT
        ),
        *(
            pytest.param(
                (case, {"hessian": True, "first": "RealAgnosticResidual"}), id="residual-L{1}-nu{2}".format(*case), marks=pytest.mark.slow
            )
            for case in ((2, 1, 2), (2, 0, 3))
        ),
    ],
)
def product_case(request: pytest.FixtureRequest) -> Case:
    (layers, degree, correlation), options = request.param
    sizes = {"num_interactions": layers, "hidden": HIDDEN[degree], "correlation": correlation, "l_max": 2 if layers == 3 else 3}
    return make_case(**sizes, **options, seed=1)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(options, id=name, marks=pytest.mark.slow if name in SLOW else () if name in QUICK else pytest.mark.thorough)
        for name, options in VARIANTS.items()
    ],
)
def variant_case(request: pytest.FixtureRequest) -> Case:
    return make_case(**request.param, hessian=False)


@pytest.mark.parametrize("structure", rest_is_thorough(reference.STRUCTURES, ["crystal"]))
def test_layers_degrees_and_correlations(product_case: Case, structure: str) -> None:
    check(product_case, structure)


@pytest.mark.thorough
@pytest.mark.parametrize("structure", ["molecule", "tial"])
def test_variants(variant_case: Case, structure: str) -> None:
    check(variant_case, structure)


def check(case: Case, structure: str) -> None:
    atoms = with_inputs(reference.STRUCTURES[structure](), case.model.config)
    assert case.model.config.contraction_basis == "full"
    expected = reference.evaluate(case.module, atoms, hessian=case.hessian)
    answer = case.answer(atoms)
    if case.model.config.embedding_readout:  # mace-torch leaves it out of the energies of atoms
        del expected["node_energy"]
    assert_same_answer(answer, expected, periodic=bool(atoms.pbc.all()))


def with_inputs(atoms: ase.Atoms, config: ModelConfig) -> ase.Atoms:
    """Atoms that say what the model reads beside them, none of it a default."""
    atoms.info |= {"total_charge": -2, "total_spin": 3, "elec_temp": 0.7, "head": config.heads[-1]}
    atoms.arrays["REF_charges"] = np.linspace(-1, 1, len(atoms))
    return atoms


def test_chebyshev_energies() -> None:
    """Energies alone: torch has no derivative of its Chebyshev polynomials, so that forces of mace-torch lack it."""
    case = make_case(hessian=False, radial_type="chebyshev", distance_transform="Agnesi", l_max=1, correlation=2, seed=18)
    atoms = reference.molecule()
    answer, expected = case.answer(atoms), reference.evaluate(case.module, atoms, hessian=False)
    for name in ("energy", "node_energy", "contributions"):
        assert_close(answer[name], expected[name], ENERGY, name)
    assert np.abs(answer["forces"] - expected["forces"]).max() > 1e-3


def test_isolated_atom(variant_case: Case) -> None:
    """An atom without neighbours has an energy (E0, shift and the self-connection's share), and no force."""
    atoms = with_inputs(reference.isolated_atom(), variant_case.model.config)
    answer = variant_case.answer(atoms)
    expected = reference.evaluate(variant_case.module, atoms, hessian=False)
    assert_close(answer["energy"], expected["energy"], ENERGY, "energy")
    assert not answer["forces"].any() and not answer["strain_derivative"].any()


GRADIENTS = {
    "RealAgnostic": {"first": "RealAgnostic", "l_max": 2, "hidden": "4x0e + 4x1o + 4x2e", "seed": 7},
    "nonlinear": {**VARIANTS["nonlinear-charged"], "use_embedding_readout": False, "hidden": "2x0e + 2x1o"},
    "RealAgnosticResidual": {"first": "RealAgnosticResidual", "l_max": 2, "hidden": "4x0e + 4x1o + 4x2e", "seed": 7},
    "density": VARIANTS["density"],
    "attention": VARIANTS["attention-so3-gaussian"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if i < 2 else pytest.mark.slow) for i, name in enumerate(GRADIENTS)])
def test_parameter_gradient_of_a_force_loss(name: str) -> None:
    """d/d(parameters) of the squared force error, every tensor on its own scale."""
    import torch

    module = reference.random_module(**GRADIENTS[name])
    atoms = with_inputs(reference.crystal(), from_torch(module).config)
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

    @jax.jit
    def gradient_of_loss(params: Any) -> Any:
        return jax.grad(lambda p: jnp.sum((predict(apply, p, graph).forces[: len(atoms)] - wanted) ** 2))(params)

    computed = gradient_of_loss(jax.tree.map(jnp.asarray, model.params))
    assert jax.tree.structure(computed) == jax.tree.structure(expected)
    for (path, one), (_, other) in zip(jax.tree.leaves_with_path(computed), jax.tree.leaves_with_path(expected), strict=True):
        assert_close(one, other, PARAMETER_GRADIENT, jax.tree_util.keystr(path))
