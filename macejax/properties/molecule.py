"""Vibrations and free energy of a molecule, in the harmonic approximation, from the Hessian of the model."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.thermochemistry import IdealGasThermo
from ase.vibrations.data import VibrationsData

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.properties.held import refuse_held

LARGEST_FORCE = 0.01  # eV/Angstrom: more, and the Hessian is not that of a minimum
LINEAR = 1e-3  # smallest over largest moment of inertia, below which a molecule is linear


class MolecularThermodynamics(NamedTuple):
    """Ideal gas, rigid rotor, harmonic oscillators."""

    frequencies: np.ndarray  # [modes] 1/cm, vibrations only, ascending
    geometry: str  # monatomic, linear or nonlinear
    energy: float  # eV, of the minimum
    zero_point_energy: float  # eV
    enthalpy: float  # eV
    entropy: float  # eV/K
    gibbs_energy: float  # eV


def molecular_free_energy(
    atoms: Atoms, temperature: float = 298.15, pressure: float = 101325.0, *, symmetry_number: int = 1, spin: float = 0.0
) -> MolecularThermodynamics:
    """Thermodynamics of a relaxed molecule as an ideal gas, by ASE's `IdealGasThermo` from the exact Hessian.

    Args:
      atoms: relaxed molecule with a macejax calculator, not periodic.
      temperature: K.
      pressure: Pa.
      symmetry_number: rotations that leave the molecule as it is (2 for water, 12 for methane).
      spin: total electronic spin (0.5 for a radical).

    Raises:
      ConfigError: a temperature or pressure that is not above 0; a symmetry number below 1; a spin that is no multiple of 1/2.
      DataError: the molecule is periodic, has a constraint, is not relaxed, or not at a minimum.
    """
    for name, value, unit in (("temperature", temperature, "K"), ("pressure", pressure, "Pa")):
        if not 0 < value < np.inf:
            raise ConfigError(f"{name} must be above 0 {unit} and finite, not {value}.")
    if not (symmetry_number >= 1 and float(symmetry_number).is_integer()):
        raise ConfigError(f"symmetry_number must be a whole number, 1 or more, not {symmetry_number}.")
    if not (spin >= 0 and float(2 * spin).is_integer()):
        raise ConfigError(f"spin must be 0, 0.5, 1, ..., not {spin}.")
    if atoms.pbc.any():
        raise DataError("a free molecule is not periodic: set pbc to False.")
    refuse_held(atoms, "free energies of molecules")
    force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    if force > LARGEST_FORCE:
        raise DataError(f"the molecule is not relaxed: a force is {force:.3g} eV/Angstrom, above {LARGEST_FORCE}.")
    geometry = shape(atoms)
    number = len(atoms)
    energies = VibrationsData(atoms, atoms.calc.get_hessian(atoms).reshape(number, 3, number, 3)).get_energies()
    count = {"monatomic": 0, "linear": 3 * number - 5, "nonlinear": 3 * number - 6}[geometry]
    # Those of shifts and rotations are next to zero, real or imaginary; an imaginary vibration is larger than they are.
    vibrations = sorted(energies, key=np.abs)[len(energies) - count :]
    if any(np.iscomplex(vibrations)):
        worst = max(np.imag(vibrations)) / units.invcm
        raise DataError(f"the molecule is at no minimum: it has an imaginary frequency of {worst:.0f}i 1/cm. Displace it and relax again.")
    vibrations = np.sort(np.real(vibrations))
    bare = atoms.copy()
    thermo = IdealGasThermo(vibrations, geometry, atoms.get_potential_energy(), bare, symmetry_number, spin, vib_selection="exact")
    return MolecularThermodynamics(
        frequencies=vibrations / units.invcm,
        geometry=geometry,
        energy=float(atoms.get_potential_energy()),
        zero_point_energy=float(thermo.get_ZPE_correction()),
        enthalpy=float(thermo.get_enthalpy(temperature, verbose=False)),
        entropy=float(thermo.get_entropy(temperature, pressure, verbose=False)),
        gibbs_energy=float(thermo.get_gibbs_energy(temperature, pressure, verbose=False)),
    )


def shape(atoms: Atoms) -> Literal["monatomic", "linear", "nonlinear"]:
    """What rotations a molecule has."""
    if len(atoms) == 1:
        return "monatomic"
    moments = atoms.get_moments_of_inertia()
    return "linear" if moments.min() < LINEAR * moments.max() else "nonlinear"
