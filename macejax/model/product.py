"""Product basis: symmetric contraction, linear map, skip connection."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from macejax.model.coupling import polynomials
from macejax.model.linear import IrrepsLinear, Species, degrees, of_present, slices
from macejax.ops.contraction import contract


class ProductBasis(nn.Module):
    """Higher-order features from one message: polynomials of degree 1 to `correlation`, weighted by element (Batatia et al. 2022, eq.
    10-11).

    Attributes:
      irreps_out: irreps of the features.
      basis: "full" holds a weight for every coupling tree, as mace-torch; "reduced" for every independent polynomial. The computation is
      the same.
    """

    irreps_out: str
    num_elements: int
    channels: int
    l_max: int
    correlation: int
    basis: str

    @nn.compact
    def __call__(self, message: jax.Array, skip: jax.Array | None, species: Species) -> jax.Array:
        """Message [N, (l_max + 1)^2, K] and skip [N, D, K] or None -> features [N, D, K]."""
        names = [name for name, _ in degrees(self.irreps_out)]
        weights = Weights(names, self.num_elements, self.channels, self.l_max, self.correlation, self.basis, name="contraction")
        basis = [{nu: polynomials(self.l_max, nu, name).reduced for nu in range(1, self.correlation + 1)} for name in names]
        x = contract(message, weights(species, message.dtype), species.member, basis)
        out = IrrepsLinear(self.channels, name="linear")({name: x[:, part] for name, part in slices(self.irreps_out).items()})
        return out if skip is None else out + skip


class Weights(nn.Module):
    """Weights of the polynomials, {irrep: {degree: [Z, paths, K]}}, drawn as mace-torch does: normal, divided by the number of paths."""

    names: Sequence[str]
    num_elements: int
    channels: int
    l_max: int
    correlation: int
    basis: str

    @nn.compact
    def __call__(self, species: Species, dtype: jnp.dtype) -> list[jax.Array]:
        """For each irrep, weights of the reduced polynomials of the elements present, degrees ascending, [S, R, K]."""
        return [self._of_irrep(name, species, dtype) for name in self.names]

    def _of_irrep(self, name: str, species: Species, dtype: jnp.dtype) -> jax.Array:
        projections = {str(nu): polynomials(self.l_max, nu, name).projection for nu in range(1, self.correlation + 1)}
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
        folded = [jnp.einsum("pr,spk->srk", jnp.asarray(projections[nu], dtype), weight) for nu, weight in present.items()]
        return jnp.concatenate(folded, axis=1)
