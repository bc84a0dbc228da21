"""Product basis: symmetric contraction, linear map, skip connection."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.coupling import polynomials
from macejax.model.linear import Species, irreps_of, linear, of_present, split
from macejax.ops.contraction import contract


class ProductBasis(nn.Module):
    """Higher-order features from one message: polynomials of degree 1 to `correlation`, weighted by element (Batatia et al. 2022, eq.
    10-11).

    Attributes:
      irreps_out: irreps of the features.
      message: irreps of the message.
      basis: "full" holds a weight for every coupling tree, as mace-torch; "reduced" for every independent polynomial. The computation is
      the same.
      agnostic: all elements have the same weights.
    """

    irreps_out: str
    num_elements: int
    channels: int
    message: tuple[str, ...]
    correlation: int
    basis: str
    agnostic: bool = False

    @nn.compact
    def __call__(self, message: jax.Array, skip: jax.Array | None, species: Species) -> jax.Array:
        """Message [N, D of the message, K] and skip [N, D, K] or None -> features [N, D, K]."""
        irreps = irreps_of(self.irreps_out)
        num_elements = 1 if self.agnostic else self.num_elements
        if self.agnostic:
            member = species.member
            species = Species(jnp.zeros_like(species.table[:1]), jnp.ones((member.shape[0], 1), member.dtype))
        weights = Weights(irreps, num_elements, self.channels, self.message, self.correlation, self.basis, name="contraction")
        basis = [{nu: polynomials(self.message, nu, irrep).reduced for nu in range(1, self.correlation + 1)} for irrep in irreps]
        x = contract(message, weights(species, message.dtype), species.member, basis)
        out = linear(irreps, self.channels, name="linear")(split(x, irreps))
        return out if skip is None else out + skip


class Weights(nn.Module):
    """Weights of the polynomials, {irrep: {degree: [Z, paths, K]}}, drawn as mace-torch does: normal, divided by the number of paths."""

    names: Sequence[str]
    num_elements: int
    channels: int
    message: tuple[str, ...]
    correlation: int
    basis: str

    @nn.compact
    def __call__(self, species: Species, dtype: jnp.dtype) -> list[jax.Array]:
        """For each irrep, weights of the reduced polynomials of the elements present, degrees ascending, [S, R, K]."""
        return [self._of_irrep(name, species, dtype) for name in self.names]

    def _of_irrep(self, name: str, species: Species, dtype: jnp.dtype) -> jax.Array:
        projections = {str(nu): polynomials(self.message, nu, name).projection for nu in range(1, self.correlation + 1)}
        full = self.basis == "full"
        counts = {nu: projection.shape[0 if full else 1] for nu, projection in projections.items()}

        def init(key: jax.Array) -> dict[str, jax.Array]:
            keys = jax.random.split(key, len(counts))
            shapes = {nu: (self.num_elements, count, self.channels) for nu, count in counts.items()}
            return {nu: jax.random.normal(k, shapes[nu], dtype) / counts[nu] for k, nu in zip(keys, counts, strict=True)}

        weights = self.param(name, init)
        present = {nu: of_present(weight, species) for nu, weight in weights.items()}
        if not full:
            return jnp.concatenate(list(present.values()), axis=1)
        return jnp.concatenate([_fold(jnp.asarray(projections[nu], dtype), weight) for nu, weight in present.items()], axis=1)


def _fold(projection: jax.Array, weights: jax.Array) -> jax.Array:
    """[P, R], [S, P, K] -> [S, R, K], as one product for each species: K stays the last axis, which einsum would move and move back."""
    per_species = jnp.broadcast_to(projection, (weights.shape[0], *projection.shape))
    return jax.lax.dot_general(per_species, weights, (((1,), (1,)), ((0,), (0,))))
