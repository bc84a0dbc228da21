"""Model files of mace-torch are read without torch, and what is not a model is refused before anything of it ran."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest

import macejax
from macejax.checkpoint import torch_file
from macejax.checkpoint.torch_basis import TorchImportError
from macejax.checkpoint.torch_file import Module, load_torch, read_torch
from macejax.data.batch import capacity_for
from macejax.data.graph import build_graphs
from macejax.data.labels import MACE_KEYS
from macejax.model.model import parameter_shapes

MODELS = [f"solvent_xtb/{name}" for name in ("mace01", "small_f32", "committee_1", "committee_2", "committee_3")]
MODELS += ["zr_mof/mace", "water/one_layer"]


FORBID = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mace", "e3nn"):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Forbid())
"""


class Command:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def archive(path: Path, content: object, **members: bytes) -> Path:
    """A zip archive such as torch.save writes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
        file.writestr("archive/byteorder", "little")
        for name, data in members.items():
            file.writestr(f"archive/{name}", data)
    return path


@pytest.mark.parametrize("suffix", [".model", ".pt", ".pth"])
@pytest.mark.parametrize("load", [load_torch, macejax.load])
def test_a_payload_is_refused_by_name_and_has_not_run(tmp_path, suffix, load):
    trace = tmp_path / "it_ran"
    for content in (Command(trace), {"model": {"weight": Command(trace)}}, OrderedDict(a=[Command(trace)])):
        path = archive(tmp_path / f"planted{suffix}", content)
        with pytest.raises(TorchImportError, match=r"asks for (posix|nt)\.system.*refused"):
            load(path)
        assert not trace.exists()
    pickle.loads(pickle.dumps(Command(trace)))  # the payload does work
    assert trace.exists()


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins setattr", "torch load", "numpy.core.multiarray _reconstruct", "mace_evil run", "torch.nnx x", "e3nn run"],
)
def test_names_that_no_model_needs(tmp_path, name):
    path = archive(tmp_path / "m.model", f"c{name.replace(' ', chr(10))}\n.".encode())
    with pytest.raises(TorchImportError, match=name.replace(" ", r"\.")):
        read_torch(path)


@pytest.mark.parametrize(
    "owner", ["torch._C\n_VariableFunctionsClass", "torch.nn.modules.linear\nLinear", "torch\nSize", "_codecs\nencode"]
)
@pytest.mark.parametrize("name", ["tanh", "__globals__", "__init__"])
def test_getattr_gives_functions_that_are_gates_and_nothing_else(tmp_path, owner, name):
    """As torch pickles torch.tanh."""
    content = f"c__builtin__\ngetattr\n(c{owner}\nV{name}\ntR.".encode()
    path = archive(tmp_path / "m.model", content)
    if "Variable" in owner and name == "tanh":
        assert (found := read_torch(path)).__name__ == "tanh" and found.__mro__[1:] == (Module, object)
    else:
        with pytest.raises(TorchImportError, match=r"builtins\.getattr.*refused"):
            read_torch(path)


def test_what_is_no_storage_makes_no_tensor(tmp_path):
    """A stand-in that says that its items are as large as the memory: strides would lead out of what numpy holds."""
    numbers = b"}(X\x01\0\0\x000K\0X\x01\0\0\x001K\0u"
    state = b"}(X\x0b\0\0\0_parameters" + numbers + b"X\x08\0\0\0itemsizeJ\0\0\0\x10u"
    fake = b"ctorch.nn.modules.container\nModuleList\n)R" + state + b"b"
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + fake + b"K\0K\x02\x85K\x01\x85\x89NtR."
    with pytest.raises(TorchImportError, match="no storage"):
        read_torch(archive(tmp_path / "m.pt", content))


def test_a_name_of_a_known_package_stands_for_nothing(tmp_path):
    """Not the attribute of a module that is installed, but a new class."""
    content = b"ctorch.nn.modules.linear\nLinear\n."
    found = read_torch(archive(tmp_path / "m.model", content))
    assert found.__name__ == "Linear" and found.__mro__[1:] == (Module, object)


def test_a_file_changes_nothing_for_the_next_one(tmp_path):
    """A pickle may set attributes of classes and functions, which must not be those that other files are read with."""
    for line, attribute in ((b"ce3nn.o3._irreps\nIrreps", b"dim"), (b"c_codecs\nencode", b"__defaults__")):
        content = b"\x80\x02" + line + b"\nN}U" + bytes([len(attribute)]) + attribute + b")s\x86b."
        try:
            read_torch(archive(tmp_path / "m.model", content))
        except TorchImportError as error:
            assert "damaged" in str(error)
    assert isinstance(torch_file.Irreps.dim, property) and torch_file._encode.__defaults__ == ("latin1",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "before 1.6"),
        (b"PK\x03\x04 and then nothing", "the end of it is missing"),
        (b"<html>not found</html>", "no archive of torch"),
        (b"", "no archive of torch"),
    ],
)
def test_what_is_no_archive(tmp_path, content, sentence):
    (tmp_path / "m.model").write_bytes(content)
    with pytest.raises(TorchImportError, match=sentence):
        macejax.load(tmp_path / "m.model")


def test_other_archives(tmp_path):
    compiled = archive(tmp_path / "a.model", {}, **{"constants.pkl": b"", "code/x.py": b""})
    with pytest.raises(TorchImportError, match="TorchScript"):
        load_torch(compiled)
    with zipfile.ZipFile(tmp_path / "b.model", "w") as file:
        file.writestr("readme", "")
    with pytest.raises(TorchImportError, match=r"no data\.pkl"):
        load_torch(tmp_path / "b.model")
    with zipfile.ZipFile(tmp_path / "g.model", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"N." + bytes(1_000_000))
    with pytest.raises(TorchImportError, match="compressed"):
        load_torch(tmp_path / "g.model")
    whole = archive(tmp_path / "c.model", list(range(1000))).read_bytes()
    (tmp_path / "c.model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TorchImportError, match="the end of it is missing"):
        load_torch(tmp_path / "c.model")
    with pytest.raises(TorchImportError, match="damaged"):
        load_torch(archive(tmp_path / "d.model", pickle.dumps(list(range(1000)), 2)[:50]))
    with pytest.raises(TorchImportError, match="neither a module nor a training checkpoint"):
        load_torch(archive(tmp_path / "e.model", [1, 2]))
    with pytest.raises(TorchImportError, match="configuration"):
        load_torch(archive(tmp_path / "f.pt", {"model": {}}))
    with pytest.raises(FileNotFoundError):
        load_torch(tmp_path / "absent.model")


@pytest.mark.parametrize(
    ("size", "offset", "shape", "stride", "sentence"),
    [
        (16, 0, (2, 2), (2, 1), None),
        (16, 0, (4,), (0,), None),
        (12, 0, (2, 2), (2, 1), "12 bytes, not 16"),
        (16, 1, (2, 2), (2, 1), "beyond its storage"),
        (16, 0, (2, 2), (200, 1), "beyond its storage"),
        (16, 0, (1 << 20, 1 << 20), (0, 0), "but 4 numbers"),
        (16, -1, (2, 2), (2, 1), "negative"),
        (16, 0, (2, 2), (-2, 1), "negative"),
    ],
)
def test_tensors_stay_within_their_storage(tmp_path, size, offset, shape, stride, sentence):
    def number(x: int) -> bytes:
        return b"J" + x.to_bytes(4, "little", signed=True)

    def pair(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, numbers)) + b"t"

    reference = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + number(4) + b"tQ"
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + reference + number(offset) + pair(shape) + pair(stride) + b"\x89NtR."
    path = archive(tmp_path / "t.pt", content, **{"data/0": np.arange(4, dtype=np.float32).tobytes()[:size]})
    if sentence is None:
        found = read_torch(path)
        assert found.shape == shape and found.dtype == np.float32
    else:
        with pytest.raises(TorchImportError, match=sentence):
            read_torch(path)


def test_numbers_of_numpy_and_no_objects(tmp_path):
    content = {"a": np.float64(1.5), "b": np.int32(-3), "c": np.bool_(True), "d": (1, 2.5, "x", b"bytes", {3}, slice(1))}
    assert read_torch(archive(tmp_path / "m.pt", content)) == content
    with pytest.raises(TorchImportError, match="type 'O8'|_reconstruct"):
        read_torch(archive(tmp_path / "m.pt", np.array([object], dtype=object)))


@pytest.mark.parametrize("name", MODELS)
def test_models_of_others(name, real_data):
    model = macejax.load(real_data / "models" / f"{name}.model")
    assert model.config.contraction_basis == "full"
    wanted = parameter_shapes(model.config)
    assert jax.tree.map(lambda x: x.shape, wanted) == jax.tree.map(lambda x: x.shape, model.params)


def test_a_module_of_an_older_mace(real_data, monkeypatch):
    module = read_torch(real_data / "models" / "water" / "one_layer.model")
    del module.__dict__["_modules"]["scale_shift"]
    monkeypatch.setattr(torch_file, "read_torch", lambda path: module)
    with pytest.raises(TorchImportError, match=r"old\.model: the module has no scale_shift"):
        load_torch("old.model")


@pytest.mark.thorough
def test_published_errors(real_data):
    """RMSE of mace01.model on the test set, as mace-torch 0.3.16 gives them in float64 (data/README.md)."""
    model = macejax.load(real_data / "models" / "solvent_xtb" / "mace01.model")
    keys = MACE_KEYS._replace(energy="energy_xtb", forces="forces_xtb")
    structures = macejax.read(real_data / "data" / "solvent_xtb_test.xyz", keys)
    graphs = build_graphs(structures, model.config.elements, model.config.cutoff, model.config.e0s)
    optimized = {"xla_backend_optimization_level": 3}  # thousands of frames, and one program: not as conftest.py has it
    predict = jax.jit(functools.partial(macejax.predict, macejax.build(model.config).apply), compiler_options=optimized)
    energies, forces = [], []
    for start in range(0, len(graphs), 100):
        some = graphs[start : start + 100]
        batch = macejax.batch(some, capacity_for(graphs[:100], 1.5), np.float64)
        found = predict(model.params, batch)
        counts = [len(graph.species) for graph in some]
        energies.append((found.energy[: len(some)] - np.array([graph.energy for graph in some])) / np.array(counts))
        forces.append(found.forces[: sum(counts)] - np.concatenate([graph.forces for graph in some]))
    assert round(1e3 * float(np.sqrt(np.mean(np.concatenate(energies) ** 2))), 4) == 20.3733
    assert round(1e3 * float(np.sqrt(np.mean(np.concatenate(forces) ** 2))), 3) == 211.372


@pytest.mark.multiprocess
def test_convert_needs_no_torch(real_data, tmp_path):
    """In a process where torch, mace and e3nn cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(FORBID, encoding="utf-8")
    source = real_data / "models" / "zr_mof" / "mace.model"
    command = [sys.executable, "-m", "macejax.cli.main", "convert", str(source), str(tmp_path / "out.mace"), "--dtype", "float64"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert child.returncode == 0, child.stderr
    converted, direct = macejax.load(tmp_path / "out.mace"), macejax.load(source)
    assert converted.config == direct.config
    again = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert again.returncode == 2 and "--overwrite" in again.stderr
