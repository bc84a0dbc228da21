"""Refusal of atoms that a constraint holds, where every force and every second derivative counts."""

from __future__ import annotations

from ase import Atoms

from macejax.data.structure import DataError


def refuse_held(atoms: Atoms, what: str) -> None:
    """Refuse constraints: atoms that they hold hide their forces, and seem to be at rest wherever they are.

    Args:
      what: is asked for, in the plural.

    Raises:
      DataError: there is a constraint.
    """
    if atoms.constraints:
        kinds = ", ".join(dict.fromkeys(type(constraint).__name__ for constraint in atoms.constraints))
        raise DataError(
            f"{atoms.get_chemical_formula()}: {what} are of atoms that are all free, but these have a constraint ({kinds}), which hides "
            "forces: take it away (atoms.set_constraint(); of a file, the column move_mask), and relax again."
        )
