"""Model files of mace-torch, read with neither torch nor mace: arrays and plain attributes, and nothing of the file runs.

`torch.save` writes a zip archive: a pickle, in which tensors stand as references, and their bytes in a member each. A pickle is a program.
The unpickler here knows a list of names; what the program calls are stand-ins, which keep what they are given and do nothing else, and any
other name ends the reading before anything was called by it. The object that comes out answers what `from_torch` asks of a module.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from macejax.checkpoint import long_range
from macejax.checkpoint.torch_basis import TorchImportError
from macejax.checkpoint.torch_stand_ins import (
    Irrep,
    Irreps,
    Module,
    Named,
    NumpyType,
    Pair,
    Parameter,
    Tensor,
    TorchFunctions,
    numpy_scalar,
)

if TYPE_CHECKING:
    from macejax.config import ModelConfig, ModelSection
    from macejax.model.model import Model

SUFFIXES = (".model", ".pt", ".pth")
ORIGIN = ("licence", "source")  # attributes that an export gives a module, from `extra` of the model file
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Modules of which every name may stand in a file, for what stands in for it does nothing.
INERT = ("mace.modules.", "mace.tools.", "e3nn.", "torch.nn.", "torch.fx.")
_EXPANDED = 1 << 24  # numbers that a tensor with strides of zero may have beyond its storage
_LFS = b"version https://git-lfs"
_BEFORE_ZIP = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"  # torch before 1.6
_ADVICE = "Nothing in it has run. Load only files whose origin you trust with the program that wrote them, and save the module again."


def load_torch(path: str | os.PathLike, config: ModelConfig | ModelSection | None = None) -> Model:
    """A model file of mace-torch (`.model`), or the weights of one of its training checkpoints (`.pt`), as a Model.

    Args:
      path: file that `torch.save` wrote (torch 1.6 or newer); on whichever device its tensors were, float32 or float64.
      config: the architecture and avg_num_neighbors, which a training checkpoint does not say, as a model or a training run has them.
        E0s, scale and shift are those of the checkpoint.

    Returns:
      Model whose parameters are numpy arrays in the dtype of the file.

    Raises:
      FileNotFoundError: there is no such file.
      TorchImportError: not such a file, damaged, with names that a model has no use for, or a model that macejax does not have; the
        sentence says which.
    """
    return _model(path, read_torch(path), config)


def load_torch_with_origin(path: str | os.PathLike) -> tuple[Model, dict[str, Any]]:
    """As `load_torch`, and licence and source of the model, where `torch_export.save_torch` has put them."""
    content = read_torch(path)
    origin = {name: getattr(content, name, None) for name in ORIGIN} if isinstance(content, Module) else {}
    return _model(path, content, None), {name: value for name, value in origin.items() if isinstance(value, str)}


def _model(path: str | os.PathLike, content: Any, config: ModelConfig | ModelSection | None) -> Model:
    """The model of what a file holds. Errors as for `load_torch`."""
    from macejax.checkpoint.torch_import import OLD, from_torch
    from macejax.checkpoint.torch_state import from_state

    try:
        if isinstance(content, Module):
            if config is not None:
                raise TorchImportError("it is a whole module, which says its own configuration: leave out the other (--config).")
            return from_torch(content)
        if not (isinstance(content, dict) and isinstance(content.get("model"), dict)):
            raise TorchImportError(f"it holds {_kind(content)}, neither a module nor a training checkpoint.")
        if config is None:
            raise TorchImportError(
                "it is a training checkpoint, which holds weights alone: give the configuration of the model too (--config)."
            )
        return from_state(config, {name: np.array(value) for name, value in content["model"].items()})
    except TorchImportError as error:
        raise TorchImportError(f"{path}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        is_old = isinstance(content, Module) and not hasattr(content, "num_interactions")
        raise TorchImportError(f"{path}: {OLD if is_old else _malformed(error)}") from error


def is_torch(path: str | os.PathLike) -> bool:
    """Whether a file looks like one of torch, whole or not, by its first bytes or, failing that, by its name."""
    with open(path, "rb") as stream:
        head = stream.read(32)
    if head[8:9] == b"{":  # safetensors
        return False
    return head.startswith((b"PK\x03\x04", _LFS, _BEFORE_ZIP)) or Path(path).suffix in SUFFIXES


def read_torch(path: str | os.PathLike) -> Any:
    """What `torch.save` wrote: modules as `Module`, tensors as `Tensor`, the rest as it is.

    Raises:
      FileNotFoundError, TorchImportError: as `load_torch`.
    """
    path = Path(path)
    with open(path, "rb") as stream:
        head = stream.read(32)
    if head.startswith(_LFS):
        raise TorchImportError(f"{path} is a pointer of Git LFS, not the model: fetch it with `git lfs pull`.")
    if head.startswith(_BEFORE_ZIP):
        raise TorchImportError(
            f"{path} was written in the format of torch before 1.6, which macejax does not read: load and save it there."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive)
    except zipfile.BadZipFile as error:
        what = "the end of it is missing or damaged: copy or download it again" if head.startswith(b"PK") else "it is no archive of torch"
        raise TorchImportError(f"{path} cannot be read, {what} ({error}).") from error
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, AttributeError, TypeError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, TorchImportError):
            raise
        raise TorchImportError(f"{path} is damaged, or written by a torch that macejax does not know: {error!r}.") from error


def _read_archive(path: Path, archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in names):
        raise TorchImportError(
            f"{path} is a compiled TorchScript model, which holds code, not the architecture: convert the .model file it was made from."
        )
    if len(pickles) != 1:
        raise TorchImportError(f"{path} is a zip archive, but not one that torch.save writes: it holds no data.pkl.")
    if any(member.file_size > member.compress_size for member in archive.infolist()):
        raise TorchImportError(f"{path} is a compressed archive, which torch.save never writes: unpack it, or save the module again.")
    folder = pickles[0].rsplit("/", 1)[0]
    if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
        raise TorchImportError(f"{path} was written on a machine of other byte order, which macejax does not read.")
    return _Unpickler(path, archive, folder).load()


class _Unpickler(pickle.Unpickler):
    """Knows the names that a model file has a use for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")), encoding="utf-8")
        self._path, self._archive, self._folder = path, archive, folder
        self._classes: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands in for a name of the file; TorchImportError where nothing does."""
        if (module, name) in KNOWN:
            return self._classes.setdefault((module, name), _own(KNOWN[module, name]))
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        if long_range.is_part(module, name):
            raise TorchImportError(
                f"{self._path} asks for {module}.{name}: it is a model with {long_range.REFUSED}. Nothing in it has run."
            )
        if module.startswith(INERT) and all(part.isidentifier() for part in name.split(".")):
            if (module, name) not in self._classes:
                self._classes[module, name] = type(name.rsplit(".", 1)[-1], (Module,), {})
            return self._classes[module, name]
        raise TorchImportError(f"{self._path} asks for {module}.{name}, which no model of mace-torch has a use for: refused. {_ADVICE}")

    def persistent_load(self, reference: Any) -> np.ndarray:
        kind, dtype, key, _, count = reference
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise TorchImportError(f"{self._path} holds a {dtype} storage, which no model of mace-torch has.")
        content = self._archive.read(f"{self._folder}/data/{key}")
        if len(content) < count * dtype.itemsize:
            raise TorchImportError(f"{self._path} is damaged: array {key} has {len(content)} bytes, not {count * dtype.itemsize}.")
        return np.frombuffer(content, dtype, count)


def _own(known: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for one file alone: pickles may set attributes of whatever they name, and what the next file finds must not change."""
    if isinstance(known, FunctionType):
        return partial(known)
    return type(known.__name__, (known,), {}) if isinstance(known, type) and known.__module__ == Module.__module__ else known


def _rebuild_tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Tensor:
    if type(storage) is not np.ndarray or not all(type(n) is int for n in (offset, *shape, *strides)):
        raise TorchImportError("a tensor of the file is made of something that is no storage: it is damaged.")  # or a trap
    if offset < 0 or min((*shape, *strides), default=0) < 0 or len(shape) != len(strides):
        raise TorchImportError("a tensor of the file has negative offset, shape or strides: it is damaged.")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(storage):
        raise TorchImportError("a tensor of the file reaches beyond its storage: it is damaged.")
    if math.prod(shape) > max(len(storage), _EXPANDED):
        raise TorchImportError(f"a tensor of the file has the shape {shape}, but {len(storage)} numbers: it is damaged.")
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, [stride * storage.itemsize for stride in strides])
    return np.array(view).view(Tensor)


def _rebuild_parameter(tensor: Tensor, *_: Any) -> Parameter:
    return tensor.view(Parameter)


def _function(owner: Any, name: str) -> type[Module]:
    """`getattr`, by which pickles name what torch has in C: stands for the functions that may be gates, and for nothing else."""
    if not (isinstance(owner, type) and issubclass(owner, TorchFunctions)) or name not in ("abs", "tanh"):
        raise TorchImportError(
            f"the file asks for builtins.getattr of {name!r}, which no model of mace-torch has a use for: refused. {_ADVICE}"
        )
    return type(name, (Module,), {})


def _rebuild_graph(attributes: dict[str, Any], *_: Any) -> Module:
    """A torch.fx graph: its source is not looked at."""
    return Module(**{key: value for key, value in attributes.items() if key.isidentifier() and key != "_code"})


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What pickles write bytes as."""
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _malformed(error: Exception) -> str:
    """What a content is whose parts are not where, or not what, `from_torch` and `from_state` expect."""
    if isinstance(error, AttributeError) and str(error).isidentifier():  # of a stand-in
        what = f"the module has no {error}, which every MACE of mace-torch 0.3 has"
    else:
        what = f"it is not put together as a MACE of mace-torch 0.3 ({type(error).__name__}: {error})"
    return f"{what}: load it with the version that wrote it, and save it with a newer one, or fetch the file again."


def _kind(x: Any) -> str:
    return f"an object of type {type(x).__name__}"


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("__builtin__", "slice"): slice,
    ("builtins", "slice"): slice,
    ("__builtin__", "object"): Module,
    ("builtins", "object"): Module,
    ("__builtin__", "getattr"): _function,
    ("builtins", "getattr"): _function,
    ("torch._C", "_VariableFunctionsClass"): TorchFunctions,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): NumpyType,
    ("numpy.core.multiarray", "scalar"): numpy_scalar,
    ("numpy._core.multiarray", "scalar"): numpy_scalar,
    ("torch", "Size"): tuple,
    ("torch", "device"): Named,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.fx.graph_module", "reduce_graph_module"): _rebuild_graph,
    ("e3nn.o3._irreps", "Irreps"): Irreps,
    ("e3nn.o3._irreps", "Irrep"): Irrep,
    ("e3nn.o3._irreps", "_MulIr"): Pair,
    ("e3nn.o3._linear", "Instruction"): Named,
    ("e3nn.o3._tensor_product._instruction", "Instruction"): Named,
}
