"""Batch -> site energies."""

from macejax.model.mace import INTERACTIONS, MACE, Model, ScaleShiftMACE, build, count_parameters, init_model, layer_irreps

__all__ = ["INTERACTIONS", "MACE", "Model", "ScaleShiftMACE", "build", "count_parameters", "init_model", "layer_irreps"]
