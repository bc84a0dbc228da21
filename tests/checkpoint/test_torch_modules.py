"""Files of modules that macejax does not have, or that are amiss: each ends in one sentence, and nothing of it has run."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any, NamedTuple

import numpy as np
import pytest

import macejax
from macejax.checkpoint import torch_file
from macejax.checkpoint.foundation import absent
from macejax.checkpoint.torch_basis import TorchImportError
from macejax.checkpoint.torch_file import Module, load_torch, read_torch
from macejax.checkpoint.torch_import import from_torch
from macejax.checkpoint.torch_state import from_state
from macejax.config import ModelConfig
from tests.checkpoint.test_torch_file import Command, archive

CONFIG = ModelConfig(elements=(1, 8), e0s=(0.0, 0.0), hidden_irreps="2x0e", l_max=1, correlation=1)


class Of(NamedTuple):
    """An object of a class that need not be installed, as a pickle makes it."""

    name: str  # module and class
    modules: dict[str, Any]
    buffers: dict[str, Any] = {}


def program(value: Any) -> bytes:
    """The pickle of a value in which `Of` may stand, without its frame."""
    if isinstance(value, Of):
        module, name = value.name.rsplit(".", 1)
        state = program({"_modules": value.modules, "_buffers": value.buffers})
        return f"c{module}\n{name}\n".encode() + b")\x81" + state + b"b"
    if isinstance(value, dict):
        return b"}(" + b"".join(program(key) + program(item) for key, item in value.items()) + b"u"
    return pickle.dumps(value, 2)[2:-1]


def saved(path: Any, value: Any) -> Any:
    return archive(path, b"\x80\x02" + program(value) + b".")


def mace(contractions: Of | None, **buffers: Any) -> Of:
    """A module with one product, of these contractions, or with none."""
    block = Of("mace.modules.blocks.EquivariantProductBasisBlock", {})
    if contractions is not None:
        symmetric = Of("mace.modules.symmetric_contraction.SymmetricContraction", {"contractions": contractions})
        block = block._replace(modules={"symmetric_contractions": symmetric})
    products = Of("torch.nn.modules.container.ModuleList", {"0": block} if contractions is not None else {})
    empty = Of("torch.nn.modules.container.ModuleList", {})
    return Of("mace.modules.models.MACE", {"products": products, "interactions": empty}, buffers)


@pytest.mark.parametrize("load", [load_torch, macejax.load])
@pytest.mark.parametrize(
    "value",
    [
        Of("mace.modules.extensions.MACELES", {"les": Of("les.les.Les", {})}),
        Of("mace.modules.extensions.PolarMACE", {}),
        Of("mace.modules.models.PolarMACE", {}),
        Of("mace.modules.models.ScaleShiftMACE", {"les": Of("les.module.atomwise.Atomwise", {})}),
        Of("mace.modules.models.FieldMACE", {"coulomb_energy": Of("graph_longrange.energy.GTOElectrostaticEnergy", {})}),
        {"model": {}, "args": Of("les.Les", {})},
    ],
    ids=lambda value: value.name if isinstance(value, Of) else "checkpoint",
)
def test_a_long_range_model_is_told_by_what_it_is(tmp_path, value, load):
    path = saved(tmp_path / "m.model", value)
    with pytest.raises(TorchImportError, match=r"m\.model asks for .*long-range electrostatics, .*mace-torch.*Nothing in it has run"):
        load(path)


@pytest.mark.parametrize("name", ["lesson.Les", "graph_longranger.energy.Energy", "xles.Les", "mace.Anything", "other.MACELES"])
def test_a_name_like_those_of_long_range_models_is_unknown(tmp_path, name):
    with pytest.raises(TorchImportError, match=rf"asks for {name}, which no model .*refused"):
        read_torch(saved(tmp_path / "m.model", Of(name, {})))


def test_a_payload_in_a_long_range_model_has_not_run(tmp_path):
    trace = tmp_path / "it_ran"
    payload = pickle.dumps(Command(trace), 2)[2:-1]
    for content in (program(Of("mace.modules.extensions.MACELES", {})) + payload, payload + program(Of("les.Les", {}))):
        with pytest.raises(TorchImportError):
            read_torch(archive(tmp_path / "m.model", b"\x80\x02" + content + b"\x86."))
        assert not trace.exists()


def test_a_long_range_module_in_memory():
    module = type("MACELES", (Module,), {})()
    with pytest.raises(TorchImportError, match=r"is a MACELES, .*long-range electrostatics"):
        from_torch(module)


@pytest.mark.parametrize("name", ["les_readouts.0.linear.weight", "les.atomwise.outnet.0.weight", "lr_source_maps.0.linear_1.weight"])
def test_a_checkpoint_of_a_long_range_model(tmp_path, name):
    path = archive(tmp_path / "c.pt", {"model": {name: 0.0}})
    with pytest.raises(TorchImportError, match=r"c\.pt: .*long-range electrostatics"):
        load_torch(path, CONFIG)


@pytest.mark.parametrize("name", ["polar-1-s", "mace_polar", "folder/MACE-POLAR-1-L.model", "maceles", "MACELES_OFF", "mace-les"])
def test_a_name_that_means_a_long_range_model(name):
    assert "long-range electrostatics" in str(absent(name))


@pytest.mark.parametrize("name", ["mace_polarizability", "bipolar", "polar.xyz", "les", "solar-1", "medium"])
def test_a_name_that_means_none(name):
    assert "long-range" not in str(absent(name))


CONTRACTIONS = Of("torch.nn.modules.container.ModuleDict", {"16x0e": Of("mace.modules.symmetric_contraction.Contraction", {})})
OLD = r"old\.model: .*mace-torch of 2022.*num_interactions.*train it again"


@pytest.mark.parametrize(
    "value",
    [mace(CONTRACTIONS), mace(CONTRACTIONS, num_interactions=1), mace(None, atomic_numbers=[1], r_max=4.0)],
    ids=["both", "irreps", "number"],
)
def test_a_module_of_2022_is_told_by_its_age(tmp_path, value):
    with pytest.raises(TorchImportError, match=OLD):
        macejax.load(saved(tmp_path / "old.model", value))


def test_a_checkpoint_of_2022_is_told_by_its_age():
    with pytest.raises(TorchImportError, match="mace-torch of 2022"):
        from_state(CONFIG, {"products.0.symmetric_contractions.contractions.16x0e.weights.1": np.zeros((2, 1, 16))})


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (mace(None, num_interactions=1, atomic_numbers=[1], r_max=4.0), IndexError),
        (Of("mace.modules.models.MACE", {"products": None, "interactions": 3}, {"num_interactions": 1}), TypeError),
        (Of("mace.modules.models.MACE", {}, {"num_interactions": 1}), AttributeError),
    ],
    ids=["no layer", "no module", "nothing"],
)
def test_a_module_that_is_amiss_ends_in_a_sentence_that_keeps_the_cause(tmp_path, value, cause):
    with pytest.raises(
        TorchImportError, match=r"m\.model: (it is not put together as|the module has no interactions, ).*mace-torch"
    ) as caught:
        load_torch(saved(tmp_path / "m.model", value))
    assert type(caught.value.__cause__) is cause and "\n" not in str(caught.value)


def test_a_module_of_which_any_part_is_amiss(real_data, monkeypatch):
    """Parts left out, or something else in their place: read all the same, or refused in a sentence."""
    whole = read_torch(real_data / "models" / "water" / "one_layer.model")
    refused = 0
    for number in random.Random(0).sample(range(len(parts(whole))), 40):
        for other in (None, "text", [], np.zeros(3).view(torch_file.Tensor), float("inf")):
            module = copy.deepcopy(whole)
            holder, key = parts(module)[number]
            holder[key] = other
            if other is None:
                del holder[key]
            monkeypatch.setattr(torch_file, "read_torch", lambda path, module=module: module)
            try:
                load_torch("m.model")
            except TorchImportError as error:
                assert str(error).startswith("m.model: ")
                refused += 1
    assert refused > 10


def parts(module: Module) -> list[tuple[dict[str, Any], str]]:
    """Every attribute, array and submodule: where it is kept, and by which name."""
    kept = [module.__dict__, *(module.__dict__.get(kind) or {} for kind in ("_parameters", "_buffers", "_modules"))]
    found = [(holder, key) for holder in kept for key in holder]
    return found + [part for holder, key in found if isinstance(holder[key], Module) for part in parts(holder[key])]
