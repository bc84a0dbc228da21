"""What ASE's constraints hold, as a mask: nothing else of them can go into a compiled program."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from macejax.data.structure import DataError


def free_of(atoms: Atoms, name: str = "") -> np.ndarray:
    """[n, 3] bool, False for components that FixAtoms and FixCartesian hold.

    Args:
      name: what an error calls the system.

    Raises:
      DataError: a constraint of another kind.
    """
    free = np.ones((len(atoms), 3), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] &= ~np.asarray(constraint.mask, bool)
        else:
            raise DataError(
                f"{name or atoms.get_chemical_formula()}: has a {type(constraint).__name__}, but on the device only FixAtoms and "
                "FixCartesian are kept: run it through ASE (run_md, or relax), or take the constraint away."
            )
    return free
