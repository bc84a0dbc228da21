"""Equation of state: energy over volume, and what a fit says of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.eos import EquationOfState, birchmurnaghan
from ase.optimize import BFGS

from macejax.data.structure import DataError
from macejax.properties.held import refuse_held

FEWEST = 5  # points: the fit has four parameters


class EquationOfStateFit(NamedTuple):
    """Birch-Murnaghan of third order through energies of a crystal at several volumes."""

    volumes: np.ndarray  # [P] Angstrom^3
    energies: np.ndarray  # [P] eV
    volume: float  # Angstrom^3, at the minimum
    energy: float  # eV, there
    bulk_modulus: float  # GPa
    derivative: float  # dB/dp at the minimum
    scale: float  # of all lengths, from the structure given to the minimum
    residual: float  # eV, root mean square of energies less the fit

    def curve(self, volumes: np.ndarray) -> np.ndarray:
        """Fitted energies (eV) at volumes (Angstrom^3)."""
        return birchmurnaghan(np.asarray(volumes), self.energy, self.bulk_modulus * units.GPa, self.derivative, self.volume)


def equation_of_state(
    atoms: Atoms, *, strain: float = 0.04, points: int = 9, relax: bool = False, fmax: float = 1e-3, steps: int = 200
) -> EquationOfStateFit:
    """Energies of a crystal whose lengths are scaled by 1 - strain to 1 + strain, and the Birch-Murnaghan equation through them.

    Args:
      atoms: crystal with a calculator; not changed.
      strain: largest change of lengths, either way.
      points: volumes.
      relax: let the atoms settle at every volume, in a cell of constant shape.
      fmax, steps: of that relaxation (eV/Angstrom; most steps).

    Returns:
      the fit.

    Raises:
      DataError: the crystal is not periodic in all directions, a constraint keeps atoms from settling, they did not settle, or the energies
        have no minimum within the volumes.
    """
    if not atoms.pbc.all() or not atoms.cell.rank == 3:
        raise DataError("an equation of state needs a crystal, periodic in all three directions.")
    if not 0 < strain < 0.5 or points < FEWEST:
        raise ValueError(f"strain must be between 0 and 0.5, points at least {FEWEST}; they are {strain} and {points}.")
    if relax:
        refuse_held(atoms, "equations of state with relax")
    volumes, energies = [], []
    for scale in np.linspace(1 - strain, 1 + strain, points):
        image = atoms.copy()
        image.calc = atoms.calc
        image.set_cell(atoms.cell.array * scale, scale_atoms=True)
        if relax and not BFGS(image, logfile=None).run(fmax=fmax, steps=steps):
            raise DataError(
                f"at {scale:.4f} times the lengths the atoms did not settle within {steps} steps: relax longer, or less tightly."
            )
        volumes.append(image.get_volume())
        energies.append(image.get_potential_energy())
    return fit(np.array(volumes), np.array(energies), atoms.get_volume())


def fit(volumes: np.ndarray, energies: np.ndarray, volume: float) -> EquationOfStateFit:
    """Birch-Murnaghan through energies [P] (eV) at volumes [P] (Angstrom^3); `volume` is where the scale is 1.

    Raises:
      DataError: there is no minimum within the volumes, or the fit fails.
    """
    lowest = int(np.argmin(energies))
    if lowest in (0, len(energies) - 1):
        side = "smaller" if volumes[lowest] == volumes.min() else "larger"
        raise DataError(f"the energy is lowest at the {side} end of the volumes: relax the cell first, or take a larger strain.")
    state = EquationOfState(volumes, energies - energies[lowest], eos="birchmurnaghan")  # small numbers fit better than large ones
    try:
        found, energy, modulus = state.fit(warn=False)
    except RuntimeError as error:
        raise DataError(f"no Birch-Murnaghan equation fits the energies: {error}") from error
    derivative = float(state.eos_parameters[2])
    if not (modulus > 0 and volumes.min() < found < volumes.max()):
        raise DataError(
            f"the fit has its minimum at {found:.3f} Angstrom^3 and a bulk modulus of {modulus / units.GPa:.3g} GPa: energies are rough."
        )
    wrong = energies - energies[lowest] - birchmurnaghan(volumes, *state.eos_parameters)
    return EquationOfStateFit(
        volumes=volumes,
        energies=energies,
        volume=float(found),
        energy=float(energy + energies[lowest]),
        bulk_modulus=float(modulus / units.GPa),
        derivative=derivative,
        scale=float((found / volume) ** (1 / 3)),
        residual=float(np.sqrt(np.mean(wrong**2))),
    )
