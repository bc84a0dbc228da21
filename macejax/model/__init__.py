"""Batch -> site energies."""

from macejax.model.mace import INTERACTIONS, MACE, ScaleShiftMACE, layer_irreps
from macejax.model.model import Model, build, count_parameters, init_model

__all__ = ["INTERACTIONS", "MACE", "Model", "ScaleShiftMACE", "build", "count_parameters", "init_model", "layer_irreps"]
