"""Model -> mace-torch module: the way back, for LAMMPS, OpenMM and whatever else reads mace-torch's files. Needs the extra `torch`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from macejax.checkpoint.atomic import write_atomically
from macejax.checkpoint.torch_names import to_state
from macejax.config import EmbeddingConfig, ModelConfig
from macejax.model.architecture import correlations, layer_irreps, message_irreps
from macejax.model.coupling import polynomials
from macejax.model.linear import irreps_of
from macejax.model.model import Model

# What the modules of dipoles take of the settings of the others.
OF_MOMENTS = (
    "r_max",
    "num_bessel",
    "num_polynomial_cutoff",
    "max_ell",
    "interaction_cls",
    "interaction_cls_first",
    "num_interactions",
    "num_elements",
    "hidden_irreps",
    "MLP_irreps",
    "gate",
    "avg_num_neighbors",
    "atomic_numbers",
    "correlation",
    "radial_MLP",
)


class TorchExportError(ValueError):
    """A model that mace-torch cannot hold, or a mace-torch that is another than macejax knows."""


def to_torch(model: Model) -> Any:
    """The mace-torch module (Batatia et al., NeurIPS 2022) with the energies of the model, in the dtype of its parameters, on the CPU.

    A product basis that is not mace-torch's (`contraction_basis: reduced`) is written in mace-torch's; the function is the same.

    Raises:
      ImportError: torch or mace-torch is not installed.
      TorchExportError: mace-torch has not the parameters that the model has.
    """
    if model.config.radial_table is not None:
        raise TorchExportError("mace-torch has no tables of radial functions: export the model that this one was made from.")
    try:
        import mace.modules  # before e3nn, which cannot read its own constants with newer torch unless mace was imported
        import torch
        from e3nn import o3
    except ImportError as error:
        raise ImportError(f'a mace-torch module can be made where mace-torch is: pip install "macejax[torch]" ({error}).') from error
    modules = mace.modules
    config, weights = model.config, all_weights(model.config, model.params["params"])
    gates = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs, "none": None}
    settings: dict[str, Any] = {
        "r_max": config.cutoff,
        "num_bessel": config.num_bessel,
        "num_polynomial_cutoff": config.cutoff_power,
        "max_ell": config.l_max,
        "interaction_cls": modules.interaction_classes[f"{config.interaction}InteractionBlock"],
        "interaction_cls_first": modules.interaction_classes[f"{config.interaction_first}InteractionBlock"],
        "num_interactions": config.num_interactions,
        "num_elements": len(config.elements),
        "hidden_irreps": o3.Irreps(config.hidden_irreps),
        "MLP_irreps": o3.Irreps(config.readout_irreps),
        "gate": gates[config.gate],
        "atomic_energies": np.array(config.e0s, np.float64),
        "heads": list(config.heads),
        "avg_num_neighbors": config.avg_num_neighbors,
        "atomic_numbers": list(config.elements),
        "correlation": config.correlation if isinstance(config.correlation, int) else list(config.correlation),
        "radial_MLP": list(config.radial_mlp),
        "pair_repulsion": config.pair_repulsion,
        "distance_transform": "None" if config.distance_transform == "none" else config.distance_transform,
        "use_reduced_cg": False,
        "radial_type": config.radial_basis,
        "apply_cutoff": config.apply_cutoff,
        "edge_irreps": None if config.edge_irreps is None else o3.Irreps(config.edge_irreps),
        "use_edge_irreps_first": config.edge_irreps_first_scalar,
        "keep_last_layer_irreps": config.keep_last_layer_irreps,
        "use_so3": config.so3,
        "use_agnostic_product": config.agnostic_product,
        "use_last_readout_only": config.last_readout_only,
        "use_embedding_readout": config.embedding_readout,
        "embedding_specs": {spec.name: _spec(spec) for spec in config.joint_embedding} or None,
        "readout_cls": getattr(modules, f"{config.readout}ReadoutBlock"),
    }
    if config.model == "ScaleShiftMACE":
        scale, shift = (values[0] if len(values) == 1 else list(values) for values in (config.scales, config.shifts))
        settings |= {"atomic_inter_scale": scale, "atomic_inter_shift": shift}
    if config.has_moments:
        settings = {name: value for name, value in settings.items() if name in OF_MOMENTS}
        settings |= {"atomic_energies": np.array(config.e0s, np.float64) if config.has_energies else None}
        settings |= {} if config.model == "EnergyDipolesMACE" else {"radial_type": config.radial_basis}
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # constants in all digits
    try:
        module = getattr(modules, config.model)(**settings)
    finally:
        torch.set_default_dtype(previous)
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters() if parameter.numel()}
    found = {name: weight.shape for name, weight in weights.items()}
    if wanted != found:
        differing = sorted(set(wanted.items()) ^ set(found.items()))
        raise TorchExportError(f"this mace-torch has other parameters than macejax expects: {', '.join(f'{n} {s}' for n, s in differing)}.")
    module.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()}, strict=False)
    (dtype,) = {str(np.asarray(leaf).dtype) for leaf in jax.tree.leaves(model.params)}
    return module.to(getattr(torch, dtype)).eval()


def save_torch(path: str | os.PathLike, model: Model, origin: Mapping[str, str] | None = None) -> None:
    """Write the mace-torch module of a model to a file, atomically: a `.model` that mace-torch loads.

    Args:
      path: where to; by custom it ends in `.model`.
      model: config and parameters.
      origin: licence and source of the model, which become attributes of these names of the module.

    Raises:
      ImportError, TorchExportError: as `to_torch`.
      OSError: the disk refuses; a file that was at `path` before is untouched.
    """
    import io

    module = to_torch(model)
    for name, value in (origin or {}).items():
        setattr(module, name, value)
    import torch

    content = io.BytesIO()
    torch.save(module, content)
    write_atomically(Path(path), content.getvalue())


def _spec(spec: EmbeddingConfig) -> dict[str, Any]:
    """An embedding as mace-torch writes it."""
    kept = {"type": spec.type, "per": spec.per, "emb_dim": spec.emb_dim}
    if spec.type == "categorical":
        return kept | {"num_classes": spec.num_classes, "offset": spec.offset}
    return kept | {"in_dim": spec.in_dim, "use_bias": spec.use_bias}


def all_weights(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weights of the mace-torch module of a model by their names, in its shapes."""
    state = to_state(config, params)
    for layer, (irreps, correlation) in enumerate(zip(layer_irreps(config), correlations(config), strict=True)):
        for index, irrep in enumerate(irreps_of(irreps)):
            name = f"products.{layer}.symmetric_contractions.contractions.{index}"
            for degree in range(1, correlation + 1):
                suffix = "weights_max" if degree == correlation else f"weights.{correlation - 1 - degree}"
                weight = np.asarray(params[f"product_{layer}"]["contraction"][irrep][str(degree)])
                state[f"{name}.{suffix}"] = _all_paths(config, message_irreps(config, layer), irrep, degree, weight)
    return state


def _all_paths(config: ModelConfig, message: tuple[str, ...], irrep: str, degree: int, weight: np.ndarray) -> np.ndarray:
    """Weights [Z, P, K] of every coupling tree, from those of a reduced basis [Z, R, K] the shortest that make the same polynomials."""
    if config.contraction_basis == "full":
        return weight
    projection = polynomials(message, degree, irrep).projection  # [P, R]
    return np.einsum("rp,zrk->zpk", np.linalg.pinv(projection), weight.astype(np.float64)).astype(weight.dtype)
