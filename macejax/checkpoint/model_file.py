"""The model file: one safetensors file whose header carries everything that, beside the numbers, makes the model.

Layout. Tensors: the parameters, named by their path in the tree (`params/interaction_0/linear/0e`). Metadata: `macejax`, a JSON object
with the fields of `_header` and `sha256`, a digest of those fields and of the name, dtype, shape and bytes of every tensor. Reading it
executes no code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from macejax.checkpoint.atomic import write_atomically
from macejax.config import ModelConfig
from macejax.data.species import SYMBOLS

if TYPE_CHECKING:
    from macejax.model.model import Model

FORMAT_VERSION = 1
UNITS = {"energy": "eV", "length": "Angstrom", "force": "eV/Angstrom", "stress": "eV/Angstrom^3"}
OF_ENERGIES = ("energy", "force", "stress")  # what a model of moments alone does not have
DTYPES = ("float32", "float64")


class ModelFileError(ValueError):
    """A model file that is damaged, of another format, or not a model file at all."""


def save_model(path: str | os.PathLike, model: Model, extra: Mapping[str, Any] | None = None) -> None:
    """Write a model to one file, atomically.

    Args:
      path: where to; by custom it ends in `.mace`.
      model: config and parameters, all of one dtype.
      extra: anything that JSON holds, kept in the header under `extra` (errors on the test set, the name of the run, ...). A model that
        was read and is written again keeps its licence if it is given what `macejax.checkpoint.load.load_with_extra` found.

    Raises:
      ValueError: parameters of several dtypes, or that hold NaN or Inf, or are not those of the model that `config` describes.
      OSError: the disk refuses; a file that was at `path` before is untouched.
    """
    from safetensors.numpy import save

    tensors = {name: np.asarray(value, order="C") for name, value in _flatten(model.params)}
    dtypes = sorted({str(value.dtype) for value in tensors.values()})
    if len(dtypes) != 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"the parameters of a model must all be float32 or all be float64, not {' and '.join(dtypes) or 'absent'}.")
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise ValueError(f"parameter {name} holds NaN or Inf: such a model is not saved.")
    if misfit := _misfit(model.config, tensors):
        raise ValueError(f"{path} is not written: the parameters do not fit the configuration, {misfit}.")
    header = _header(model.config, dtypes[0], extra or {})
    signed = json.dumps({**header, "sha256": _digest(header, tensors)}, sort_keys=True, allow_nan=False)
    write_atomically(path, save(tensors, metadata={"macejax": signed}))


def read_model(path: Path) -> tuple[Model, dict[str, Any]]:
    """The model of a file of macejax, its parameters numpy arrays in the dtype of the file, and `extra` of its header.

    Raises:
      ModelFileError: the file is damaged, of another format or a newer one, not a model file, or has a block that is not registered.
    """
    from macejax.model.model import Model

    header, tensors = _read(path)
    config = _config(path, header)
    _require_blocks(path, config)
    try:
        misfit = _misfit(config, tensors)
    except ValueError as error:
        raise ModelFileError(f"{path} describes a model that cannot be: {error}") from error
    if misfit:
        raise ModelFileError(f"{path}: its parameters do not fit its configuration, {misfit}.")
    return Model(config, _unflatten(tensors)), header["extra"]


def header_of_file(path: Path) -> dict[str, Any]:
    """The verified header of a file of macejax, and `parameters`, their number. Errors as for `read_model`."""
    header, tensors = _read(path)
    return _counted(header, tensors.values())


def header_of_model(model: Model, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The header that a file of this model would have, and `parameters`, their number."""
    values = [value for _, value in _flatten(model.params)]
    return _counted(_header(model.config, str(values[0].dtype), extra), values)


def carried_over(extra: Mapping[str, Any], before: ModelConfig, after: ModelConfig) -> dict[str, Any]:
    """What of `extra` holds for a model made of another, such as its licence: all but errors, where heads or elements are no longer the
    same.
    """
    return {name: value for name, value in extra.items() if before == after or name != "mae_rmse"}


def _counted(header: dict[str, Any], values: Iterable[np.ndarray]) -> dict[str, Any]:
    return {**header, "parameters": int(sum(value.size for value in values))}


def _header(config: ModelConfig, dtype: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "species": [SYMBOLS[number] for number in config.elements],
        "units": {name: unit for name, unit in UNITS.items() if config.has_energies or name not in OF_ENERGIES}
        | ({"dipole": config.dipole_unit} if config.has_moments else {}),
        "dtype": dtype,
        "versions": {name: _version(name) for name in ("macejax", "jax", "flax", "e3nn-jax", "numpy")},
        "extra": dict(extra),
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and tensors of a file, everything verified: kind, size, format version, then the digest."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; a model is one file.")
    content = path.read_bytes()
    _refuse_other_formats(path, content)
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path} is damaged or not a model file: its table of tensors cannot be read ({error}).") from error
    if "macejax" not in metadata:
        raise ModelFileError(f"{path} holds tensors, but no macejax header: it is damaged, or was not written by macejax.")
    try:
        header = json.loads(metadata["macejax"])
        written, digest = int(header["format"]), header.pop("sha256")
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{path} is damaged: its header cannot be read.") from error
    if written > FORMAT_VERSION:
        raise ModelFileError(f"{path} has format {written}; this macejax reads up to format {FORMAT_VERSION}. Please upgrade macejax.")
    if _digest(header, tensors) != digest:
        raise ModelFileError(f"{path} is damaged: its content does not match its checksum. Fetch or train it again.")
    return header, tensors


def _refuse_other_formats(path: Path, content: bytes) -> None:
    # The first byte alone does not tell: a safetensors file begins with the length of its header, whose low byte may be 0x80 too.
    if content[8:9] != b"{" and content[:1] == b"\x80":
        raise ModelFileError(f"{path} is a pickle, which is a program: macejax does not open it. A macejax model file is wanted.")
    if len(content) < 8 or int.from_bytes(content[:8], "little") > len(content) - 8:
        raise ModelFileError(f"{path} is truncated or not a model file ({len(content)} bytes).")


def _config(path: Path, header: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.model_validate(header["config"])
    except (ValidationError, KeyError) as error:
        raise ModelFileError(f"{path} describes a model that this macejax does not know: {error}") from error


def _require_blocks(path: Path, config: ModelConfig) -> None:
    """This process has the interaction blocks that the file names."""
    from macejax.model.mace import INTERACTIONS

    for name in (config.interaction_first, config.interaction):
        if name not in INTERACTIONS:
            raise ModelFileError(
                f"{path} has the interaction block {name!r}, which is not known here: if it is your own, register it in "
                f"macejax.model.mace.INTERACTIONS before the file is loaded; if not, upgrade macejax."
            )


def _misfit(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> str | None:
    """What of the parameters is not of the model that a configuration describes, which has them by the same names and shapes; None where
    all is.

    Raises:
      ValueError: there is no such model.
    """
    from macejax.model.model import parameter_shapes

    if not any(name.startswith("params/") for name in tensors):
        return "for they are not under 'params', where the init of a module puts them"
    wanted = {name: shape.shape for name, shape in _flatten(parameter_shapes(config))}
    found = {name: value.shape for name, value in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted:
            return f"which has no {name}: a block of one's own has to be named there, and registered in macejax.model.mace.INTERACTIONS"
        if name not in found:
            return f"which has {name} too"
        if wanted[name] != found[name]:
            return f"in which {name} has the shape {wanted[name]}, not {found[name]}"
    return None


def _digest(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over the header and every tensor's name, dtype, shape and bytes, in the order of the names."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if "/" in key:
            raise ValueError(f"the name {key!r} of a parameter holds a slash.")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _unflatten(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in tensors.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
