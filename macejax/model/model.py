"""A model, and how one is built: the module of a configuration, and parameters for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.config import ModelConfig
from macejax.model.architecture import block_names, check_irreps
from macejax.model.initial import example_graph, first_values
from macejax.model.mace import INTERACTIONS, MACE, TABULATED, Block, ScaleShiftMACE
from macejax.model.moments import MomentsMACE


class Model(NamedTuple):
    """A potential: what it is, and its parameters."""

    config: ModelConfig
    params: dict[str, Any]


def build(
    config: ModelConfig, *, interaction_first: Block | None = None, interaction: Block | None = None, matmul_precision: str = "highest"
) -> MACE:
    """The Flax module of a configuration; `apply(params, vectors, graph)` gives site energies, or `Sites` of a model of moments.

    Args:
      config: what to build.
      interaction_first, interaction: own blocks, used instead of the named ones (signature: `macejax.model.interaction`). A model file
        does not hold them: to save a model with a block, add the block to INTERACTIONS and name it in the configuration.
      matmul_precision: of matrix products in float32, a name that `jax.default_matmul_precision` knows: "highest" is float32 throughout;
        "TF32_TF32_F32_X3" and "TF32_TF32_F32" run on the matrix units of NVIDIA GPUs, the first with nearly the same result (errors
        were measured on an H200). jax refuses those that the device lacks.

    Raises:
      ValueError: a block name that is not known, or irreps that this model cannot have.
    """
    for name, own in ((config.interaction_first, interaction_first), (config.interaction, interaction)):
        if own is None and name not in INTERACTIONS:
            raise ValueError(f"no interaction block is called {name!r}: choose from {', '.join(INTERACTIONS)}.")
    if config.radial_table is not None and (interaction_first or interaction or set(block_names(config)) - set(TABULATED)):
        raise ValueError(f"tables of radial functions go with the blocks {', '.join(TABULATED)} alone.")
    check_irreps(config)
    with jax.default_matmul_precision(matmul_precision):  # ValueError where there is none of that name
        pass
    if config.has_moments:
        return MomentsMACE(config, interaction_first, interaction, matmul_precision)
    kind = ScaleShiftMACE if config.model == "ScaleShiftMACE" else MACE
    return kind(config, interaction_first, interaction, matmul_precision)


def init_model(config: ModelConfig, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Model:
    """A model with random parameters, from the distributions of mace-torch, which `build(config).init` draws from too.

    Here one draw serves all parameters: one per parameter takes ten seconds to compile.

    Raises:
      ValueError: a configuration with tables of radial functions, which are made from a model.
    """
    if config.radial_table is not None:
        raise ValueError("tables of radial functions are not drawn at random: make them from a model, by macejax.tabulate.")
    return Model(config, first_values(parameter_shapes(config), key, dtype))


def parameter_shapes(config: ModelConfig) -> Any:
    """Tree of the parameters as jax.ShapeDtypeStruct, without computing or compiling anything."""
    vectors, graph = np.zeros((1, 4, 3), np.float32), example_graph(config, np.dtype(np.float32))
    return jax.eval_shape(lambda seed, *inputs: build(config).init(jax.random.key(seed), *inputs), 0, vectors, graph)


def count_parameters(config: ModelConfig) -> int:
    """Number of trainable numbers, without computing any."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(config)))
