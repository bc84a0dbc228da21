"""Linear maps between irreps: of one kind for all atoms, and one for each species."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
from flax import linen as nn

# Up to here the copies of the features, one per species, are cheaper than a loop.
_STACKED_SPECIES = 8


class Species(NamedTuple):
    """The elements present in a batch, so that the cost follows them and not the periodic table."""

    table: jax.Array  # [S] index into the model's elements
    member: jax.Array  # [N, S] 1 where the atom is of that element, float


def of_present(x: jax.Array, species: Species) -> jax.Array:
    """Rows of x [Z, ...] for the elements present, [S, ...]: a product with zeros and ones, whose transpose is no scatter."""
    one_hot = (species.table[:, None] == jnp.arange(x.shape[0], dtype=jnp.int32)).astype(x.dtype)
    return (one_hot @ x.reshape(x.shape[0], -1)).reshape(one_hot.shape[:1] + x.shape[1:])


def irreps_of(irreps: str) -> tuple[str, ...]:
    """Irreps of a feature [N, D, K] in the order of axis D, channels aside: "8x0e + 8x1o" -> ("0e", "1o")."""
    return tuple(str(ir) for _, ir in e3nn.Irreps(irreps))


def slices(irreps: Sequence[str]) -> dict[str, slice]:
    """Where each irrep lies along axis D."""
    found, start = {}, 0
    for irrep in irreps:
        size = 2 * int(irrep[:-1]) + 1
        found[irrep] = slice(start, start + size)
        start += size
    return found


def split(x: jax.Array, irreps: Sequence[str]) -> dict[str, jax.Array]:
    """A feature [N, D, K] as {irrep: [N, 2l+1, K]}."""
    return {irrep: x[:, part] for irrep, part in slices(irreps).items()}


class IrrepsLinear(nn.Module):
    """One matrix per irrep, the same for all components and atoms (e3nn's Linear: scaled by 1/sqrt(fan in)).

    What is scaled is the product, here and elsewhere, not the weights: a factor on a product costs nothing, for it is fused with what
    comes next, or an argument of the library's routine, where scaled weights are a kernel more for each matrix.

    Attributes:
      widths: channels of every output irrep; in the order of axis D of the output.
      zeros: channels of an input irrep that are zero and not put in: the fan in counts them.
    """

    widths: tuple[tuple[str, int], ...]
    zeros: tuple[tuple[str, int], ...] = ()

    @nn.compact
    def blocks(self, blocks: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """{irrep: [N, 2l+1, K_in of that irrep]} -> {irrep: [N, 2l+1, K_out]}; an irrep that is not put in comes out as zeros."""
        first, outputs = next(iter(blocks.values())), {}
        for irrep, width in self.widths:
            if irrep not in blocks:
                outputs[irrep] = jnp.zeros((first.shape[0], 2 * int(irrep[:-1]) + 1, width), first.dtype)
                continue
            x = blocks[irrep]
            fan = x.shape[-1]
            weight = self.param(irrep, nn.initializers.normal(1.0), (fan, width), x.dtype)
            outputs[irrep] = x @ weight * (1 / math.sqrt(fan + dict(self.zeros).get(irrep, 0)))
        return outputs

    def __call__(self, blocks: dict[str, jax.Array]) -> jax.Array:
        """As `blocks`, output irreps one after the other [N, D, K]: for widths that are all the same."""
        return jnp.concatenate(list(self.blocks(blocks).values()), axis=1)


def linear(irreps: Sequence[str], channels: int, name: str | None = None, zeros: tuple[tuple[str, int], ...] = ()) -> IrrepsLinear:
    """An IrrepsLinear that makes the same number of channels of every irrep."""
    return IrrepsLinear(tuple((irrep, channels) for irrep in irreps), zeros, name=name)


class SpeciesLinear(nn.Module):
    """One matrix per irrep and element (mace-torch's fully connected product with the one-hot element, without its cost).

    Scaled by 1/sqrt(fan in * elements of the model), as there.
    """

    num_elements: int
    channels: int
    irreps: Sequence[str]  # outputs; irreps absent from the input give zeros

    @nn.compact
    def __call__(self, blocks: dict[str, jax.Array], species: Species, per_species: bool = False) -> jax.Array:
        """Blocks {irrep: [N, 2l+1, K_in]} -> [N, D, channels]; with `per_species`, axis 0 of the blocks runs over the model's elements
        [Z].
        """
        outputs = []
        for irrep in self.irreps:
            if irrep not in blocks:
                num = species.member.shape[0]
                outputs.append(jnp.zeros((num, 2 * int(irrep[:-1]) + 1, self.channels), species.member.dtype))
                continue
            x = blocks[irrep]
            shape = (self.num_elements, x.shape[-1], self.channels)
            weight = self.param(irrep, nn.initializers.normal(1.0), shape, x.dtype)
            product = (_of_table if per_species else _of_atoms)(x, of_present(weight, species), species)
            outputs.append(product * (1 / math.sqrt(x.shape[-1] * self.num_elements)))
        return jnp.concatenate(outputs, axis=1)


def _of_atoms(x: jax.Array, weight: jax.Array, species: Species) -> jax.Array:
    """Products with the matrix of each atom's species, never as x @ W[species], which copies a matrix per atom and whose transpose is a
    scatter: few species as one product over (species, channel), many one after the other."""
    num_species, fan, channels = weight.shape
    if num_species <= _STACKED_SPECIES:
        stacked = x[:, :, None] * species.member[:, None, :, None]  # [N, 2l+1, S, K_in]
        return stacked.reshape(*x.shape[:2], num_species * fan) @ weight.reshape(num_species * fan, channels)

    def add(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        member, matrix = part
        return total + (x * member[:, None, None]) @ matrix, None

    return jax.lax.scan(add, jnp.zeros((*x.shape[:2], channels), x.dtype), (species.member.T, weight))[0]


def _of_table(x: jax.Array, weight: jax.Array, species: Species) -> jax.Array:
    mapped = jnp.matmul(of_present(x, species), weight)  # [S, 2l+1, channels]
    return jnp.einsum("ns,smk->nmk", species.member, mapped)
