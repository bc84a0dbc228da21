"""Weights by their mace-torch names, as a training checkpoint holds them, and the architecture from elsewhere -> Model."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pydantic import ValidationError

from macejax.checkpoint.long_range import REFUSED, has_weights
from macejax.checkpoint.torch_basis import TorchImportError, contraction_weights
from macejax.checkpoint.torch_import import OLD, ROUNDED, SCALE_SHIFT, constants_of, per_head, rows_of
from macejax.checkpoint.torch_names import to_params
from macejax.config import ModelConfig, ModelSection, in_a_sentence
from macejax.model.model import Model, build

_OF_IRREPS = re.compile(r"\.contractions\.\d+x\d+[eo]\.")  # as mace-torch named them before 0.3


def from_state(config: ModelConfig | ModelSection, state: dict[str, np.ndarray]) -> Model:
    """The model of a state dict of mace-torch.

    Args:
      config: architecture and avg_num_neighbors, which a state dict does not say. E0s, scale and shift are taken from the state dict, and
        so are the elements for a section of a run.
      state: arrays by their names, parameters and buffers; what is used is taken out of it.

    Raises:
      TorchImportError: the weights are those of another architecture.
    """
    if has_weights(state):
        raise TorchImportError(f"it is a checkpoint of a model with {REFUSED}.")
    if "num_interactions" not in state and any(_OF_IRREPS.search(name) for name in state):
        raise TorchImportError(OLD)
    if isinstance(config, ModelSection):
        config = _resolved(config, state)
    config, contractions = contraction_weights(_with_constants(config, state), state)
    params = {"params": to_params(config, state, contractions)}
    if unused := [name for name in state if state[name].size and name.endswith(("weight", "weights_max", "bias"))]:
        raise TorchImportError(f"the configuration is that of another model, without a place for {', '.join(unused)}.")
    return Model(config, params)


def _resolved(section: ModelSection, state: dict[str, np.ndarray]) -> ModelConfig:
    """The configuration of a run's section `model`, and of what lies beside the weights."""
    if section.avg_num_neighbors == "auto":
        raise TorchImportError(
            "a training checkpoint does not say the average number of neighbours: set model.avg_num_neighbors in the configuration "
            "to what the log of the run says."
        )
    elements = tuple(int(number) for number in state.get("atomic_numbers", ()))
    table = np.atleast_2d(state.get("atomic_energies_fn.atomic_energies", np.zeros(len(elements))))
    heads = ("Default",) if section.heads == "auto" else section.heads
    if len(heads) != len(table):
        raise TorchImportError(f"it has {len(table)} heads, where model.heads names {len(heads)}: name them all, in their order.")
    if section.elements not in ("auto", elements):
        raise TorchImportError(f"it is of the elements {list(elements)}, where model.elements has {list(section.elements)}.")
    try:
        config = section.resolve(elements=elements, e0s=rows_of(table), avg_num_neighbors=1.0, scale=1.0, shift=0.0, heads=heads)
        build(config)  # for what the section cannot know to be wrong: blocks and irreps
        return config
    except ValueError as error:
        raise TorchImportError(f"the configuration is that of another model: {in_a_sentence(error)}") from error


def _with_constants(config: ModelConfig, state: dict[str, np.ndarray]) -> ModelConfig:
    """The config of the weights in a checkpoint: with the E0s, scale and shift that lie beside them.

    Raises:
      TorchImportError: other constants differ, so that the weights belong to another architecture.
    """
    parts = {
        "pair_repulsion_fn": config.pair_repulsion,
        "radial_embedding.distance_transform": config.distance_transform != "none",
        "scale_shift": config.model == "ScaleShiftMACE",
    }
    for part, there in parts.items():
        if any(name.startswith(f"{part}.") for name in state) != there:
            raise TorchImportError(f"the configuration is that of another model: {part} is in one of the two alone.")
    constants = {"atomic_numbers": config.elements, "r_max": config.cutoff, "radial_embedding.cutoff_fn.p": config.cutoff_power}
    of_parts = constants_of(config)
    if missing := [name for name in of_parts if name not in state]:
        raise TorchImportError(f"the configuration is that of another model: {missing[0]} is in one of the two alone.")
    for name, wanted in {**constants, **of_parts}.items():
        found = state.get(name, np.asarray(wanted))
        if found.shape != np.shape(wanted) or not np.allclose(found, wanted, rtol=ROUNDED, atol=0):
            there = np.asarray(wanted).tolist()
            raise TorchImportError(f"the configuration is that of another model: {name} is {found.tolist()} here, and {there} there.")
    fields: dict[str, Any] = {}
    if (table := state.get("atomic_energies_fn.atomic_energies")) is not None:
        fields["e0s"] = rows_of(table)
    fields |= {name: per_head(state[f"scale_shift.{name}"]) for name in SCALE_SHIFT if f"scale_shift.{name}" in state}
    try:
        return ModelConfig(**{**config.model_dump(), **fields})
    except ValidationError as error:
        raise TorchImportError(f"the configuration is that of another model: {in_a_sentence(error)}") from error
