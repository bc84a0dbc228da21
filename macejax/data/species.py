"""Atomic number <-> symbol <-> index into a model's elements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from macejax.data.structure import DataError, Structure

SYMBOLS = tuple(
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd "
    "Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac "
    "Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number > 0}


def elements_of(structures: Iterable[Structure]) -> tuple[int, ...]:
    """Atomic numbers that occur in the structures, ascending."""
    found: set[int] = set()
    for structure in structures:
        found.update(np.unique(structure.numbers).tolist())
    return tuple(sorted(found))


def covalent_radii(elements: Iterable[int]) -> np.ndarray:
    """Covalent radii (Angstrom) of elements by atomic number, those of ASE (Cordero et al. 2008)."""
    import ase.data  # not for all who need a name of an element

    return ase.data.covalent_radii[list(elements)]


def names(numbers: Iterable[int]) -> str:
    """Atomic numbers as "H, C, O", for messages."""
    return ", ".join(SYMBOLS[number] for number in numbers)


def species_index(numbers: np.ndarray, elements: Sequence[int], source: str = "") -> np.ndarray:
    """Index [N] int32 of every atom into `elements` (ascending atomic numbers).

    Raises:
      DataError: an atom is of another element.
    """
    table = np.asarray(elements)
    index = np.searchsorted(table, numbers).astype(np.int32)
    known = table[np.minimum(index, len(table) - 1)] == numbers
    if not known.all():
        foreign = names(np.unique(numbers[~known]).tolist())
        raise DataError(f"{source or 'structure'}: contains {foreign}; the model knows only {names(table.tolist())}.")
    return index
