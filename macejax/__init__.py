"""macejax: MACE force fields in JAX."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Loaded when first used: e3nn-jax alone takes seconds to import, and `macejax --help` needs none of it.
_PUBLIC = {
    "Calculator": "macejax.simulate.calculator",
    "Committee": "macejax.simulate.committee",
    "MACE": "macejax.model.mace",
    "Model": "macejax.model.model",
    "ModelConfig": "macejax.config",
    "MomentDerivatives": "macejax.potential",
    "Moments": "macejax.potential",
    "Precision": "macejax.config",
    "Prediction": "macejax.potential",
    "ScaleShiftMACE": "macejax.model.mace",
    "Structure": "macejax.data.structure",
    "add_head": "macejax.model.heads",
    "TrainConfig": "macejax.config",
    "batch": "macejax.data.batch",
    "build": "macejax.model.model",
    "build_graph": "macejax.data.graph",
    "enable_cache": "macejax.cache",
    "hessian": "macejax.potential",
    "remove_head": "macejax.model.heads",
    "select_elements": "macejax.model.heads",
    "select_head": "macejax.model.heads",
    "init_model": "macejax.model.model",
    "load": "macejax.checkpoint.load",
    "moment_derivatives": "macejax.potential",
    "precision_error": "macejax.testing.precision",
    "predict": "macejax.potential",
    "predict_moments": "macejax.potential",
    "read": "macejax.data.read",
    "relax_many": "macejax.simulate.many",
    "run_many": "macejax.simulate.many",
    "save": "macejax.checkpoint.model_file",
    "tabulate": "macejax.model.tabulate",
}
_RENAMED = {"load": "load_model", "save": "save_model"}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'macejax' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
