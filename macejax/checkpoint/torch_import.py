"""An in-memory mace-torch module -> Model. Facts of its layout: macejax never imports torch, the module is only asked for its attributes.

mace-torch stores flat weights, block after block in instruction order, each block row-major; the normalisations are applied in its forward pass, as
in macejax's. So the import is a renaming and a reshape, with one exception: the columns of the product basis. They are compared with the
`U_matrix_*` buffers of the module, and where they differ (a reduced basis, other signs) the weights are projected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from macejax.config import ModelConfig
from macejax.model.mace import Model

BLOCKS = {"RealAgnosticInteractionBlock": "RealAgnostic", "RealAgnosticResidualInteractionBlock": "RealAgnosticResidual"}
GATES = ("silu", "tanh", "abs")
FREQUENCY_TOLERANCE = 1e-6  # relative; modules trained in float32 carry rounded frequencies
REFUSED_PARTS = {
    "pair_repulsion_fn": "a ZBL pair repulsion",
    "joint_embedding": "embeddings of charge, spin or other inputs",
    "embedding_readout": "an embedding readout",
    "les_readouts": "latent Ewald charges",
}


class TorchImportError(ValueError):
    """A torch module that macejax cannot reproduce; the message names the part."""


def from_torch(module: Any) -> Model:
    """Config and parameters of a mace-torch module, such that energies agree to rounding.

    Args:
      module: an instance of `MACE` or `ScaleShiftMACE` of mace-torch (Batatia et al., NeurIPS 2022), eager, with the e3nn layout of the weights.

    Returns:
      Model whose parameters are numpy arrays in the dtype of the module.

    Raises:
      TorchImportError: the module has a part that macejax does not have; the sentence names it.
    """
    _refuse_foreign_parts(module)
    config = read_config(module)
    state = {name: _numpy(value) for name, value in module.state_dict().items()}
    parameters = {name: _numpy(value) for name, value in module.named_parameters()}
    params, used = to_params(config, state, basis=_basis(module, config))
    unknown = sorted(name for name in parameters if name not in used and name != "radial_embedding.bessel_fn.bessel_weights")
    if unknown:
        raise TorchImportError(f"the module has parameters that macejax has no place for: {', '.join(unknown)}.")
    return Model(config, params)
