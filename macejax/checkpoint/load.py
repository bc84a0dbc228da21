"""Models by path or name: files of macejax and of mace-torch, and published models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macejax.checkpoint.foundation import absent, converted, is_name
from macejax.checkpoint.model_file import header_of_file, header_of_model, read_model

if TYPE_CHECKING:
    from macejax.model.model import Model


def load_model(path: str | os.PathLike) -> Model:
    """Read a model file: macejax's own, or one of mace-torch (`torch_file.load_torch`); or a published model by its name
    (`foundation.FOUNDATIONS`), which is fetched where it is not in the cache.

    Returns:
      Model whose parameters are numpy arrays in the dtype of the file, whatever JAX's x64 setting; `jax.tree.map(jnp.asarray, ...)` brings
      them to the device.

    Raises:
      FileNotFoundError: there is no such file.
      FetchError: a published model that cannot be fetched.
      ModelFileError: the file is damaged, of another format or a newer one, not a model file, or has an interaction block that is not
        registered in this process. Nothing in it is ever executed.
      TorchImportError: a file of mace-torch that is damaged or holds what macejax does not have.
    """
    return load_with_extra(path)[0]


def load_with_extra(path: str | os.PathLike) -> tuple[Model, dict[str, Any]]:
    """As `load_model`, and what the header has under `extra`, for `save_model`: licence and source of a published model, name, epoch, step
    and errors of a trained one. Of a file of mace-torch, licence and source where an export has put them.
    """
    path = _path(path)
    if _is_torch(path):
        from macejax.checkpoint.torch_file import load_torch_with_origin

        return load_torch_with_origin(path)
    return read_model(path)


def read_header(path: str | os.PathLike) -> dict[str, Any]:
    """The verified header of a model file: format, config, species, units, dtype, versions, extra, and `parameters`, their number.

    Of a file of mace-torch, the header that it would have once converted.
    """
    path = _path(path)
    if _is_torch(path):
        model, origin = load_with_extra(path)
        return header_of_model(model, {"read from": "a file of mace-torch", **origin})
    return header_of_file(path)


def _path(path: str | os.PathLike) -> Path:
    """The file of a path, or of a name of a published model."""
    if is_name(path):
        return converted(str(path))
    if not Path(path).exists():
        raise absent(path)
    return Path(path)


def _is_torch(path: Path) -> bool:
    from macejax.checkpoint.torch_file import is_torch

    return not path.is_dir() and is_torch(path)
