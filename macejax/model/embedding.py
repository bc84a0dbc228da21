"""Elements -> scalar features."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


class NodeEmbedding(nn.Module):
    """One scalar feature vector per element, scaled by 1/sqrt(number of elements) as a linear map of the one-hot element is."""

    num_elements: int
    channels: int

    @nn.compact
    def __call__(self, dtype: jnp.dtype) -> jax.Array:
        """Features of every element, [Z, 1, K]: the irreps axis of a scalar has one component."""
        weight = self.param("weight", nn.initializers.normal(1.0), (self.num_elements, self.channels), dtype)
        return (weight / math.sqrt(self.num_elements))[:, None]
