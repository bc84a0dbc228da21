"""Crystals of the toy, whose calculators share what they compile."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk

from macejax.simulate import Calculator
from macejax.simulate.md import thermalize
from tests.simulate.toy import LATTICE, morse, toy_model

SHARED = Calculator(toy_model(), site_energy=morse)  # whose program the others use


def calculator() -> Calculator:
    own = Calculator(toy_model(), site_energy=morse)
    own.share_program(SHARED)
    return own


def copper(repeat: int = 1, rattle: float = 0.0, a: float = LATTICE, temperature: float | None = None) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=a).repeat(repeat)
    atoms.calc = calculator()
    if rattle:
        atoms.rattle(rattle, seed=3)
    if temperature:
        thermalize(atoms, temperature, np.random.default_rng(0))
    return atoms
