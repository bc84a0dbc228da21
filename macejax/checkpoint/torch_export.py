"""Model -> mace-torch module: the way back, for LAMMPS, OpenMM and whatever else reads mace-torch's files. Needs the extra `torch`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from macejax.checkpoint.atomic import write_atomically
from macejax.checkpoint.torch_basis import correlations
from macejax.config import ModelConfig
from macejax.model.coupling import polynomials
from macejax.model.linear import degrees
from macejax.model.mace import Model, layer_irreps


class TorchExportError(ValueError):
    """A model that mace-torch cannot hold, or a mace-torch that is another than macejax knows."""


def to_torch(model: Model) -> Any:
    """The mace-torch module (Batatia et al., NeurIPS 2022) with the energies of the model, in the dtype of its parameters, on the CPU.

    A product basis that is not mace-torch's (`contraction_basis: reduced`) is written in mace-torch's; the function is the same.

    Raises:
      ImportError: torch or mace-torch is not installed.
      TorchExportError: mace-torch has not the parameters that the model has.
    """
    try:
        import torch
        from e3nn import o3
        from mace import modules
    except ImportError as error:
        raise ImportError(f'a mace-torch module can be made where mace-torch is: pip install "macejax[torch]" ({error}).') from error
    config, weights = model.config, to_state(model.config, model.params["params"])
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
        "avg_num_neighbors": config.avg_num_neighbors,
        "atomic_numbers": list(config.elements),
        "correlation": config.correlation if isinstance(config.correlation, int) else list(config.correlation),
        "radial_MLP": list(config.radial_mlp),
        "pair_repulsion": config.pair_repulsion,
        "distance_transform": "None" if config.distance_transform == "none" else config.distance_transform,
        "use_reduced_cg": False,
    }
    if config.model == "ScaleShiftMACE":
        settings |= {"atomic_inter_scale": config.scale, "atomic_inter_shift": config.shift}
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


def save_torch(path: str | os.PathLike, model: Model) -> None:
    """Write the mace-torch module of a model to a file, atomically: a `.model` that mace-torch loads.

    Raises:
      ImportError, TorchExportError: as `to_torch`.
      OSError: the disk refuses; a file that was at `path` before is untouched.
    """
    import io

    module = to_torch(model)
    import torch

    content = io.BytesIO()
    torch.save(module, content)
    write_atomically(Path(path), content.getvalue())


def to_state(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weights by their mace-torch names, in its shapes: the inverse of `torch_import.to_params`."""
    params = jax.tree.map(np.asarray, params)
    state = {"node_embedding.linear.weight": params["node_embedding"]["weight"].ravel()}
    for layer, (irreps, correlation) in enumerate(zip(layer_irreps(config), correlations(config), strict=True)):
        interaction, product, readout = (params[f"{part}_{layer}"] for part in ("interaction", "product", "readout"))
        name = f"interactions.{layer}"
        state[f"{name}.linear_up.weight"] = _flat(interaction["linear_up"])
        state[f"{name}.linear.weight"] = _flat(interaction["linear"])
        state[f"{name}.skip_tp.weight"] = _flat({key: weight.transpose(1, 0, 2) for key, weight in interaction["skip"].items()})
        for i in range(len(config.radial_mlp) + 1):
            state[f"{name}.conv_tp_weights.layer{i}.weight"] = interaction["radial_mlp"][f"layer{i}"]
        if "density" in interaction:
            state[f"{name}.density_fn.layer0.weight"] = interaction["density"]["weight"]
        for index, (irrep, _) in enumerate(degrees(irreps)):
            contraction = f"products.{layer}.symmetric_contractions.contractions.{index}"
            for degree in range(1, correlation + 1):
                suffix = "weights_max" if degree == correlation else f"weights.{correlation - 1 - degree}"
                state[f"{contraction}.{suffix}"] = _all_paths(config, irrep, degree, product["contraction"][irrep][str(degree)])
        state[f"products.{layer}.linear.weight"] = _flat(product["linear"])
        state |= {f"readouts.{layer}.{part}.weight": weight.ravel() for part, weight in readout.items()}
    return state


def _all_paths(config: ModelConfig, irrep: str, degree: int, weight: np.ndarray) -> np.ndarray:
    """Weights [Z, P, K] of every coupling tree, from those of a reduced basis [Z, R, K] the shortest that make the same polynomials."""
    if config.contraction_basis == "full":
        return weight
    projection = polynomials(config.l_max, degree, irrep).projection  # [P, R]
    return np.einsum("rp,zrk->zpk", np.linalg.pinv(projection), weight.astype(np.float64)).astype(weight.dtype)


def _flat(blocks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Blocks one after the other, by ascending degree."""
    return np.concatenate([blocks[irrep].ravel() for irrep in sorted(blocks, key=lambda irrep: int(irrep[:-1]))])
