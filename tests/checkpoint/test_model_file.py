"""The model file: what is read is what was written, or a sentence; never code, never other numbers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

from macejax.checkpoint import model_file
from macejax.checkpoint.load import load_model, read_header
from macejax.checkpoint.model_file import ModelFileError, save_model
from macejax.checkpoint.torch_basis import TorchImportError
from macejax.config import ModelConfig
from macejax.model.interaction import RealAgnosticResidual
from macejax.model.mace import INTERACTIONS
from macejax.model.model import Model, init_model

CONFIG = ModelConfig(
    elements=(1, 8), e0s=(-13.6, -430.25), hidden_irreps="2x0e", l_max=1, correlation=1, radial_mlp=(4,), avg_num_neighbors=3.1, scale=0.7
)


@pytest.fixture(scope="module")
def model() -> Model:
    return init_model(CONFIG, jax.random.key(0), np.float64)


@pytest.fixture
def path(tmp_path, model) -> Path:
    save_model(tmp_path / "water.mace", model, {"name": "water"})
    return tmp_path / "water.mace"


def test_round_trip(path, model):
    found = load_model(path)
    assert found.config == model.config
    assert jax.tree.structure(found.params) == jax.tree.structure(model.params)
    for wanted, value in zip(jax.tree.leaves(model.params), jax.tree.leaves(found.params), strict=True):
        assert value.dtype == wanted.dtype == np.float64 and np.array_equal(value, wanted)


def test_header_tells_what_the_model_is(path, model):
    header = read_header(path)
    assert (
        header["species"] == ["H", "O"]
        and header["dtype"] == "float64"
        and header["units"]["energy"] == "eV"
        and header["extra"] == {"name": "water"}
    )
    assert header["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert header["config"]["e0s"] == [-13.6, -430.25]


def test_writing_twice_gives_the_same_bytes(path, model):
    before = path.read_bytes()
    save_model(path, load_model(path), {"name": "water"})
    assert path.read_bytes() == before and [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_truncated_anywhere_is_refused(path):
    content = path.read_bytes()
    for size in [0, 1, 7, *np.random.default_rng(0).integers(8, len(content), size=10)]:
        path.write_bytes(content[:size])
        with pytest.raises(ModelFileError, match=r"water\.mace"):
            load_model(path)


def test_any_flipped_bit_is_refused(path):
    """100 seeded bits of the whole file, and 100 of its header, where flips are the most harmful."""
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    random = np.random.default_rng(1)
    for place in [*random.integers(len(content), size=100), *random.integers(header, size=100)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(ModelFileError, match=r"water\.mace"):
            load_model(path)


def test_a_pickle_is_refused_and_not_run(path, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    for protocol in (0, 2, 5):
        path.write_bytes(pickle.dumps(Trap(), protocol=protocol))
        with pytest.raises(ModelFileError, match="a program|not a model file"):
            load_model(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(TorchImportError, match="the end of it is missing"):
        load_model(path)
    assert not (tmp_path / "executed").exists()


def rewrite(path: Path, monkeypatch, **changes) -> None:
    """Write the file anew with a valid checksum and a header that has `changes`."""
    original = model_file._header
    monkeypatch.setattr(model_file, "_header", lambda *args: {**original(*args), **changes})
    save_model(path, load_model(path))
    monkeypatch.undo()


def test_future_format_and_unknown_config_are_refused(path, model, monkeypatch):
    config = CONFIG.model_dump(mode="json")
    rewrite(path, monkeypatch, config={**config, "colour": "blue"})
    with pytest.raises(ModelFileError, match="unknown key 'colour'"):
        load_model(path)
    save_model(path, model)
    rewrite(path, monkeypatch, format=2)
    with pytest.raises(ModelFileError, match="format 2; this macejax reads up to format 1. Please upgrade"):
        load_model(path)


def test_parameters_that_do_not_fit_the_configuration_are_refused(path, model, monkeypatch):
    """In writing, and in reading what another program has written."""
    before, own = path.read_bytes(), model.params["params"]
    wider = jax.tree.map(lambda x: np.zeros((*x.shape, 2)), own["interaction_0"])
    for params, sentence in (
        (own, "not under 'params'"),
        ({"params": {**own, "gain": np.zeros(1)}}, "has no params/gain: a block of one's own"),
        ({"params": {name: part for name, part in own.items() if name != "readout_0"}}, "has params/readout_0/linear too"),
        ({"params": {**own, "interaction_0": wider}}, r"params/interaction_0/.* has the shape \(\d+, \d+\), not \(\d+, \d+, 2\)"),
    ):
        with pytest.raises(ValueError, match=f"water.mace is not written: .*{sentence}"):
            save_model(path, Model(CONFIG, params))
        assert path.read_bytes() == before
        with monkeypatch.context() as patch:
            patch.setattr(model_file, "_misfit", lambda *_: None)
            save_model(path.with_name("forged.mace"), Model(CONFIG, params))
        with pytest.raises(ModelFileError, match=f"forged.mace: its parameters do not fit its configuration, .*{sentence}"):
            load_model(path.with_name("forged.mace"))


def test_a_block_of_ones_own_is_saved_and_loaded_where_it_is_registered(tmp_path, monkeypatch):
    class Own(RealAgnosticResidual):
        pass

    path, config = tmp_path / "own.mace", CONFIG.model_copy(update={"interaction": "Own"})
    with monkeypatch.context() as patch:
        patch.setitem(INTERACTIONS, "Own", Own)
        found = init_model(config, jax.random.key(0), np.float64)
        save_model(path, found)
        assert load_model(path).config == config
    with pytest.raises(
        ModelFileError, match=r"own\.mace has the interaction block 'Own', .* register it in macejax\.model\.mace\.INTERACTIONS"
    ):
        load_model(path)
    assert read_header(path)["config"]["interaction"] == "Own"
    with pytest.raises(ValueError, match="no interaction block is called 'Own'"):
        save_model(tmp_path / "other.mace", found)


def test_irreps_that_no_model_has_are_refused(path, monkeypatch):
    rewrite(path, monkeypatch, config={**CONFIG.model_dump(mode="json"), "hidden_irreps": "2x0e + 3x1o"})
    with pytest.raises(ModelFileError, match=r"water\.mace describes a model that cannot be: hidden_irreps .* same number of channels"):
        load_model(path)


def test_a_model_of_moments_has_no_units_of_energies(tmp_path):
    for kind, names in (
        ("AtomicDielectricMACE", {"length", "dipole"}),
        ("EnergyDipolesMACE", {"energy", "length", "force", "stress", "dipole"}),
    ):
        config = ModelConfig(
            elements=(1,), e0s=(0.0,), model=kind, hidden_irreps="2x0e + 2x1o", l_max=2, correlation=1, readout_irreps="2x0e + 2x1o"
        )
        save_model(tmp_path / "m.mace", init_model(config, jax.random.key(0), np.float64))
        assert set(read_header(tmp_path / "m.mace")["units"]) == names


def test_other_safetensors_are_refused(path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(ModelFileError, match="no macejax header"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(path.parent / "absent")
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(path.parent)


def test_what_is_no_model_is_not_saved(path):
    before = path.read_bytes()
    for params, sentence in (
        ({"a": np.zeros(2), "b": np.zeros(2, np.float32)}, "all be float32 or all be float64"),
        ({"a": np.full(2, np.nan)}, "a holds NaN"),
    ):
        with pytest.raises(ValueError, match=sentence):
            save_model(path, Model(CONFIG, params))
    assert path.read_bytes() == before


def test_a_failing_disk_leaves_the_old_file(path, model, monkeypatch):
    import macejax.checkpoint.atomic as atomic

    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write \d+ bytes to .*water\.mace: No space left"):
        save_model(path, model)
    assert path.read_bytes() == before and [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_told_by_the_name_of_the_file(path, model):
    with pytest.raises(FileNotFoundError, match=r"could not write \d+ bytes to .*/absent/water\.mace: No such file"):
        save_model(path.parent / "absent" / "water.mace", model)


def test_header_is_json_without_nan(path):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["macejax"])["format"] == 1
