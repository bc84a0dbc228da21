"""Repulsion of nuclei at short distances."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from macejax.model.radial import polynomial_cutoff

# Screening function of Ziegler, Biersack and Littmark (1985), eV and Angstrom, with the digits of mace-torch.
COULOMB, BOHR = 14.3996, 0.529
COEFFICIENTS = (0.1818, 0.5099, 0.2802, 0.02817)
DECAYS = (3.2, 0.9423, 0.4028, 0.2016)
LENGTH = {"a_prefactor": 0.4543, "a_exp": 0.3}


def zbl(lengths: jax.Array, first: jax.Array, second: jax.Array, radii: jax.Array, power: int) -> jax.Array:
    """Half the ZBL energy of pairs (eV), cut off at the sum of their covalent radii; 0 at r = 0, where there is none.

    Args:
      lengths: distances (Angstrom).
      first, second: atomic numbers, floats.
      radii: sums of the covalent radii (Angstrom).
      power: of the polynomial cutoff.
    """
    apart = lengths > 0
    r = jnp.where(apart, lengths, 1)
    screening = LENGTH["a_prefactor"] * BOHR / (first ** LENGTH["a_exp"] + second ** LENGTH["a_exp"])
    phi = sum(c * jnp.exp(-decay * r / screening) for c, decay in zip(COEFFICIENTS, DECAYS, strict=True))
    energy = COULOMB * first * second / r * phi * polynomial_cutoff(r, radii, power) / 2
    return jnp.where(apart, energy, 0)
