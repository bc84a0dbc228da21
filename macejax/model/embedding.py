"""Elements, and inputs beside the structure -> scalar features."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import jraph
from flax import linen as nn

from macejax.config import EmbeddingConfig
from macejax.model.radial import torch_uniform


class NodeEmbedding(nn.Module):
    """One scalar feature vector per element, scaled by 1/sqrt(number of elements) as a linear map of the one-hot element is."""

    num_elements: int
    channels: int

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> jax.Array:
        """Features of every element, [Z, 1, K]: the irreps axis of a scalar has one component."""
        weight = self.param("weight", nn.initializers.normal(1.0), (self.num_elements, self.channels), dtype)
        return (weight / math.sqrt(self.num_elements))[:, None]


class JointEmbedding(nn.Module):
    """Inputs such as total charge and spin, each embedded, all mixed by one linear map with silu: mace-torch's GenericJointEmbedding.

    Attributes:
      specs: what there is to embed.
      channels: features K.
    """

    specs: tuple[EmbeddingConfig, ...]
    channels: int

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple, dtype: jnp.dtype) -> jax.Array:
        """Features of every atom, [N, K], from `graph.globals["inputs"]` and `graph.nodes["inputs"]`."""
        parts = []
        for spec in self.specs:
            owner = graph.globals if spec.per == "graph" else graph.nodes
            value = jnp.asarray(owner["inputs"][spec.name], dtype)
            embed = self._categorical if spec.type == "categorical" else self._continuous
            found = embed(spec, value.reshape(value.shape[0], -1))
            parts.append(found[graph.nodes["graph"]] if spec.per == "graph" else found)
        x = jnp.concatenate(parts, axis=-1)
        weight = self.param("project", torch_uniform(x.shape[-1]), (x.shape[-1], self.channels), dtype)
        return jax.nn.silu(x @ weight)

    def _categorical(self, spec: EmbeddingConfig, value: jax.Array) -> jax.Array:
        table = self.param(f"{spec.name}_table", nn.initializers.normal(1.0), (spec.num_classes, spec.emb_dim), value.dtype)
        # A product with zeros and ones: its transpose is no scatter. What is out of range was refused where the batch was made.
        return (jnp.round(value + spec.offset) == jnp.arange(spec.num_classes, dtype=value.dtype)).astype(value.dtype) @ table

    def _continuous(self, spec: EmbeddingConfig, value: jax.Array) -> jax.Array:
        for i, fan in enumerate((spec.in_dim, spec.emb_dim)):
            weight = self.param(f"{spec.name}_weight{i}", torch_uniform(fan), (fan, spec.emb_dim), value.dtype)
            value = (jax.nn.silu(value) if i else value) @ weight
            if spec.use_bias:
                value = value + self.param(f"{spec.name}_bias{i}", torch_uniform(fan), (spec.emb_dim,), value.dtype)
        return value
