"""Relaxation of atoms, and of the cell, through ASE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from macejax.config import ConfigError
from macejax.simulate.checks import above_zero, finite, whole

OPTIMIZERS = {"BFGS": BFGS, "LBFGS": LBFGS, "FIRE": FIRE}


class Relaxation(NamedTuple):
    """How far a relaxation came."""

    step: int
    energy: float  # eV
    largest_force: float  # eV/Angstrom; with a free cell, its generalised forces included
    converged: bool


def relax(
    atoms: Atoms,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    optimizer: Literal["BFGS", "LBFGS", "FIRE"] = "BFGS",
    cell: bool = False,
    pressure: float = 0.0,
    observe: Callable[[Atoms, Relaxation], None] | None = None,
) -> Relaxation:
    """Move `atoms` downhill until no force exceeds `fmax`, or `steps` are used up.

    Args:
      atoms: structure with a calculator; changed in place.
      fmax: largest force that is left, eV/Angstrom.
      steps: most steps taken.
      optimizer: BFGS for small systems, LBFGS and FIRE also for large ones.
      cell: relax the lattice vectors too, in the log of the deformation (ASE's FrechetCellFilter).
      pressure: GPa, on the free cell.
      observe: called after each step, and before the first, with the atoms.

    Returns:
      The last step; `converged` says whether fmax was reached.

    Raises:
      ConfigError: unknown optimizer, numbers out of range, a cell that cannot be relaxed, or a pressure on a cell that is fixed.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}.")
    above_zero("fmax", fmax, "eV/Angstrom")
    finite("pressure", pressure, "GPa")
    if cell and not atoms.pbc.all():
        raise ConfigError("only the cell of a structure that is periodic in all three directions can be relaxed.")
    if pressure and not cell:
        raise ConfigError("a pressure acts on a free cell only: set cell=True.")
    target = FrechetCellFilter(atoms, scalar_pressure=pressure * units.GPa) if cell else atoms
    algorithm = OPTIMIZERS[optimizer](target, logfile=None)
    state = Relaxation(0, np.nan, np.inf, False)
    for converged in algorithm.irun(fmax=fmax, steps=whole("steps", steps)):
        largest = float(np.linalg.norm(target.get_forces().reshape(-1, 3), axis=1).max())
        state = Relaxation(algorithm.nsteps, float(atoms.get_potential_energy()), largest, bool(converged))
        if observe is not None:
            observe(atoms, state)
    return state
