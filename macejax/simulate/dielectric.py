"""Dipoles and polarizabilities as ASE and mace-torch's calculator name them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

from macejax.config import ModelConfig
from macejax.potential import MomentDerivatives, Moments

FIXED_CHARGES = "Qs"  # where mace-torch's calculator looks for the charges of atoms


def properties_of(config: ModelConfig, energies: list[str]) -> list[str]:
    """Names of what a model predicts; `energies` are those of a model of energies."""
    dielectric = ["charges", "polarizability", "polarizability_sh"] if config.model == "AtomicDielectricMACE" else []
    return energies * config.has_energies + ["dipole"] * config.has_moments + dielectric


def moment_results(moments: Moments, number: int) -> dict[str, np.ndarray]:
    """Results of the first structure of a batch, which has that many atoms, by the names of `properties_of`.

    Raises:
      CalculationFailed: the dipole or polarizability is not finite.
    """
    found: dict[str, Any] = {"dipole": moments.dipole[0]}
    if moments.polarizability is not None and moments.polarizability_sh is not None:
        found |= {"charges": moments.charges[:number], "polarizability": moments.polarizability[0]}
        found["polarizability_sh"] = moments.polarizability_sh[0]
    results = {name: np.asarray(value, np.float64) for name, value in found.items()}
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise CalculationFailed(f"the {name} is not finite: do atoms overlap, or are charges missing?")
    return results


def derivative_results(derivatives: MomentDerivatives, number: int) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """d mu/dr [3, N, 3] and, where there is one, d alpha/dr [9, N, 3], as mace-torch's calculator has them."""
    dipole = np.asarray(derivatives.dipole, np.float64)[:number].transpose(1, 0, 2)
    if derivatives.polarizability is None:
        return dipole
    polarizability = np.asarray(derivatives.polarizability, np.float64)[:number].reshape(number, 9, 3)
    return dipole, polarizability.transpose(1, 0, 2)


def fixed_charges(atoms: Atoms, config: ModelConfig, key: str) -> np.ndarray | None:
    """The charges of atoms [N] (e) that a model adds the dipole of; None where it reads none, or there are none, which counts as 0."""
    return atoms.arrays.get(key) if config.has_moments and config.model != "AtomicDielectricMACE" else None
