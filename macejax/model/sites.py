"""What a model says of every atom."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Sites(NamedTuple):
    """Energies and moments of the atoms, 0 on padding; None is what the model does not predict.

    Dipoles are in the unit that the model has (`ModelConfig.dipole_unit`).
    """

    energy: jax.Array | None = None  # [N] eV
    charge: jax.Array | None = None  # [N] e
    dipole: jax.Array | None = None  # [N, 3], of the atom itself
    charge_dipole: jax.Array | None = None  # [N, 3], charge times position as it was in the input
    polarizability: jax.Array | None = None  # [N, 6], spherical components: trace / sqrt(3), then those of degree 2
