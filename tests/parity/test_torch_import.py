"""What the import refuses, what it does with another product basis, and that parameters are counted as the paper counts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from macejax.checkpoint.torch_basis import TorchImportError
from macejax.checkpoint.torch_file import load_torch
from macejax.checkpoint.torch_import import from_torch
from macejax.checkpoint.torch_state import from_state
from macejax.config import ModelConfig
from macejax.model.model import count_parameters
from tests.parity import ours, reference
from tests.parity.compare import assert_same_answer

needs_torch = pytest.mark.torch
CONTINUOUS = {"type": "continuous", "per": "graph", "emb_dim": 3, "in_dim": 1, "use_bias": False}
TINY = {"hidden": "2x0e + 2x1o", "l_max": 1, "correlation": 2}


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    pytest.importorskip("torch")
    pytest.importorskip("mace")
    return lambda **options: reference.random_module(**{**TINY, **options})


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    pytest.importorskip("mace")
    file = tmp_path_factory.mktemp("tiny") / "c.pt"
    torch.save({"model": reference.random_module(**TINY).state_dict()}, file)
    return file


@needs_torch
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hidden": "2x0e + 4x1o"}, "same number of channels"),
        ({"hidden": "2x0o + 2x0e + 2x1o"}, "begin with 0e"),
        ({"hidden": "2x0e + 2x1o + 2x2e"}, "reach beyond l_max"),
        ({"elements": (22, 8)}, "ascending"),
    ],
)
def test_a_part_that_macejax_lacks_is_refused_by_name(make: Callable[..., Any], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TorchImportError, match=sentence):
        from_torch(make(**options))


@needs_torch
def test_other_objects_are_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(TorchImportError, match="not Linear"):
        from_torch(__import__("torch").nn.Linear(1, 1))


@needs_torch
def test_trained_frequencies_and_unknown_parameters_are_refused(make: Callable[..., Any]) -> None:
    import torch

    module = make()
    module.extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(TorchImportError, match="no place for .*extra"):
        from_torch(module)
    module = make()
    module.radial_embedding.bessel_fn.bessel_weights[2] *= 1.01
    with pytest.raises(TorchImportError, match="Bessel frequencies"):
        from_torch(module)


@needs_torch
def test_a_module_that_was_fine_tuned(make: Callable[..., Any]) -> None:
    """mace-torch makes parameters of the Bessel frequencies then, which it does not train."""
    import torch

    module = make(distance_transform="Agnesi", pair_repulsion=True)
    expected = from_torch(module)
    parts = {
        "bessel_weights": module.radial_embedding.bessel_fn,
        "a": module.radial_embedding.distance_transform,
        "a_exp": module.pair_repulsion_fn,
    }
    for name, part in parts.items():
        value = getattr(part, name)
        delattr(part, name)
        setattr(part, name, torch.nn.Parameter(value))
    found = from_torch(module)
    assert found.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.thorough
@needs_torch
def test_another_basis_of_the_same_polynomials_is_projected(make: Callable[..., Any]) -> None:
    """Columns mixed by a random matrix, weights by its inverse: the same function, written in a basis that macejax does not have."""
    import torch

    module = make(correlation=3)
    expected = reference.evaluate(module, reference.tial())
    generator = torch.Generator().manual_seed(0)
    for name, contraction in module.named_modules():
        if name.endswith(("contractions.0", "contractions.1")):
            coupling, weight = contraction.U_matrix_3, contraction.weights_max
            mix = torch.randn(weight.shape[1], weight.shape[1], generator=generator, dtype=torch.float64)
            with torch.no_grad():
                coupling.copy_(coupling @ mix)
                weight.copy_(torch.einsum("pq,zqk->zpk", torch.linalg.inv(mix), weight))
    model = from_torch(module)
    assert model.config.contraction_basis == "reduced"
    assert_same_answer(ours.evaluator(model)(reference.tial()), expected, periodic=True)


@needs_torch
def test_polynomials_outside_the_span_are_refused(make: Callable[..., Any]) -> None:
    module = make()
    module.products[0].symmetric_contractions.contractions[1].U_matrix_2[0, 0, 0, 0] += 0.1
    with pytest.raises(TorchImportError, match=r"contractions\.1\.U_matrix_2 does not lie in the span"):
        from_torch(module)


@needs_torch
def test_the_model_owns_its_weights(make: Callable[..., Any]) -> None:
    module = make()
    model = from_torch(module)
    before = [leaf.copy() for leaf in leaves(model.params)]
    for parameter in module.parameters():
        parameter.data.add_(1.0)
    assert all(np.array_equal(one, other) for one, other in zip(before, leaves(model.params), strict=True))


@needs_torch
def test_float32_module_keeps_its_dtype_and_full_basis(make: Callable[..., Any]) -> None:
    """Also once it is cast to float64, which does not unround its buffers."""
    module = make(correlation=3).float()
    model = from_torch(module)
    assert {value.dtype for value in leaves(model.params)} == {np.dtype(np.float32)}
    assert model.config.contraction_basis == from_torch(module.double()).config.contraction_basis == "full"


@pytest.mark.parametrize(
    ("elements", "first", "count"),
    [
        ((1, 6, 8), "RealAgnosticResidual", 2_803_984),
        ((1, 6, 7, 8), "RealAgnosticResidual", 2_983_184),
        ((1, 6, 8), "RealAgnostic", 3_393_808),
    ],
)
def test_parameters_of_the_paper(elements: tuple[int, ...], first: str, count: int) -> None:
    """256 channels, L = 2 (the models of the MACE paper, Batatia et al., NeurIPS 2022), every coupling tree with its own weights."""
    config = ModelConfig(elements=elements, e0s=(0.0,) * len(elements), hidden_irreps="256x0e + 256x1o + 256x2e", interaction_first=first)
    assert count_parameters(config) == count


def leaves(tree: Any) -> list[np.ndarray]:
    return [leaf for value in tree.values() for leaf in leaves(value)] if isinstance(tree, dict) else [tree]


@pytest.mark.thorough
@needs_torch
@pytest.mark.parametrize(
    "options",
    [
        {"hidden": "4x0e + 4x1o + 4x2e", "l_max": 3, "correlation": 3},
        {"first": "RealAgnosticDensity", "interaction": "RealAgnosticDensityResidual", "model": "MACE"},
        {"num_interactions": 1},
        {
            "first": "RealAgnosticResidualNonLinear",
            "interaction": "RealAgnosticResidualNonLinear",
            "edge_irreps": "1x0e + 1x1o",
            "apply_cutoff": False,
            "heads": ["one", "two"],
            "atomic_inter_scale": [1.0, 2.0],
            "atomic_inter_shift": [0.0, -1.0],
            "atomic_energies": np.arange(6.0).reshape(2, 3),
            "readout_cls": "NonLinearBiasReadoutBlock",
            "embedding_specs": {"total_charge": {"type": "categorical", "per": "graph", "emb_dim": 2, "num_classes": 3, "offset": 1}},
        },
        {"interaction": "RealAgnosticAttResidual", "hidden": "2x0e + 2x1e", "use_so3": True, "radial_type": "chebyshev"},
        {"keep_last_layer_irreps": True, "edge_irreps": "1x0e + 1x1o + 1x2e", "l_max": 2},
        {"gate": "abs"},
        {"gate": "none", "radial_type": "gaussian", "distance_transform": "Soft", "pair_repulsion": True},
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_saved_module_is_read_as_the_module(make: Callable[..., Any], tmp_path: Path, options: dict[str, Any], dtype: str) -> None:
    import torch

    module = make(**options).to(getattr(torch, dtype))
    expected = from_torch(module)
    torch.save(module, tmp_path / "whole.model")
    torch.save({"model": module.state_dict(), "optimizer": {}, "epoch": 3}, tmp_path / "checkpoint.pt")
    for found in (load_torch(tmp_path / "whole.model"), load_torch(tmp_path / "checkpoint.pt", expected.config)):
        assert found.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
        assert {str(x.dtype) for x in jax.tree.leaves(found.params)} == {dtype}
    with pytest.raises(TorchImportError, match="says its own configuration"):
        load_torch(tmp_path / "whole.model", expected.config)


@needs_torch
def test_a_checkpoint_has_its_own_energies_of_atoms(make: Callable[..., Any], tmp_path: Path) -> None:
    import torch

    module = make()
    expected = from_torch(module)
    torch.save({"model": module.state_dict()}, tmp_path / "c.pt")
    other = expected.config.model_copy(update={"e0s": (0.0, 0.0, 0.0), "scale": 1.0, "shift": 0.0})
    assert load_torch(tmp_path / "c.pt", other).config == expected.config


@needs_torch
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"elements": (8, 13)}, "atomic_numbers is"),
        ({"elements": (1, 13, 22)}, "atomic_numbers is"),
        ({"num_interactions": 1}, "the irreps|without a place|weights"),
        ({"hidden": "2x0e"}, "without a place|weights"),
        ({"hidden": "4x0e + 4x1o"}, "has the shape"),
        ({"l_max": 2}, "has the shape|where macejax has"),
        ({"correlation": 1}, "without a place|weights_max"),
        ({"num_bessel": 5}, "bessel_weights is"),
        ({"pair_repulsion": True}, "pair_repulsion_fn is in one"),
        ({"distance_transform": "Agnesi"}, "distance_transform is in one"),
        ({"radial_type": "gaussian"}, "gaussian_weights is in one"),
        ({"radial_type": "chebyshev"}, "bessel_fn.n is in one"),
        ({"model": "MACE"}, "scale_shift is in one"),
        ({"cutoff": 3.0}, "r_max is"),
        ({"readout": "3x0e"}, "weights where macejax has"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_architecture_is_refused(
    make: Callable[..., Any], tiny_checkpoint: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TorchImportError, match=sentence):
        load_torch(tiny_checkpoint, from_torch(make(**options)).config)


@needs_torch
@pytest.mark.parametrize(
    ("own", "others", "sentence"),
    [
        ({"distance_transform": "Soft"}, {"distance_transform": "Agnesi"}, "distance_transform.[a-z]+ is in one"),
        ({"model": "MACE"}, {}, "scale_shift is in one"),
        (
            {"embedding_specs": {"total_charge": {**CONTINUOUS, "use_bias": True}}},
            {"embedding_specs": {"total_charge": CONTINUOUS}},
            "bias",
        ),
    ],
    ids=str,
)
def test_what_a_state_dict_says_in_other_ways(make: Callable[..., Any], own: dict, others: dict, sentence: str) -> None:
    """Kinds of functions, and what the architecture of the configuration has no use for."""
    state = {name: value.numpy() for name, value in make(**own).state_dict().items()}
    with pytest.raises(TorchImportError, match=sentence):
        from_state(from_torch(make(**others)).config, state)


@needs_torch
def test_constants_that_were_trained_are_refused_in_a_state_dict(make: Callable[..., Any]) -> None:
    module = make(pair_repulsion=True)
    config = from_torch(module).config
    for name in ("radial_embedding.bessel_fn.bessel_weights", "pair_repulsion_fn.a_exp"):
        state = {name: value.numpy().copy() for name, value in module.state_dict().items()}
        state[name] = state[name] * 1.01
        with pytest.raises(TorchImportError, match=f"{name} is"):
            from_state(config, state)
    state = {name: value.numpy() for name, value in module.state_dict().items()} | {"correction.0.weight": np.ones(3)}
    with pytest.raises(TorchImportError, match=r"without a place for correction\.0\.weight"):
        from_state(config, state)


@needs_torch
def test_a_compiled_module_is_named(make: Callable[..., Any], tmp_path: Path) -> None:
    import torch

    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "m_compiled.model")
    with pytest.raises(TorchImportError, match="TorchScript"):
        load_torch(tmp_path / "m_compiled.model")


@needs_torch
def test_a_module_of_another_kind_is_named(make: Callable[..., Any], tmp_path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(1, 1), tmp_path / "linear.pt")
    with pytest.raises(TorchImportError, match="not Linear"):
        load_torch(tmp_path / "linear.pt")
    module = make(keep_last_layer_irreps=True)
    module.products[-1].linear.irreps_out = module.products[-1].linear.irreps_out[1:]  # vectors alone
    torch.save(module, tmp_path / "wide.model")
    with pytest.raises(TorchImportError, match=r"wide\.model: the layers put out"):
        load_torch(tmp_path / "wide.model")
