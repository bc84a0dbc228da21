"""Relaxation: the minimum is found, of atoms and of the cell, under pressure too."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule

from macejax.simulate import Calculator, relax
from tests.simulate.toy import LATTICE, morse, toy_model


def copper(lattice: float = LATTICE):
    atoms = bulk("Cu", cubic=True, a=lattice)
    atoms.rattle(0.05, seed=3)
    atoms.calc = Calculator(toy_model(), site_energy=morse)
    return atoms


@pytest.mark.parametrize("optimizer", ["BFGS", "LBFGS", "FIRE"])
def test_atoms_find_their_sites(optimizer):
    atoms, steps = copper(), []
    end = relax(atoms, fmax=1e-3, optimizer=optimizer, observe=lambda _, state: steps.append(state))
    assert end.converged and end == steps[-1]
    assert steps[0].step == 0 and not steps[0].converged
    assert end.largest_force < 1e-3 and np.abs(atoms.get_forces()).max() < 1e-3
    assert end.energy < steps[0].energy
    np.testing.assert_allclose(atoms.get_all_distances(mic=True)[0, 1:], LATTICE / np.sqrt(2), atol=1e-2, rtol=0)


def test_the_cell_finds_its_pressure():
    atoms = copper(1.03 * LATTICE)
    assert relax(atoms, cell=True, fmax=1e-3, pressure=5.0).converged
    np.testing.assert_allclose(atoms.get_stress() / units.GPa, [-5, -5, -5, 0, 0, 0], atol=0.05, rtol=0)
    assert atoms.calc.num_compilations <= 3


def test_steps_are_counted():
    end = relax(copper(), fmax=1e-6, steps=2)
    assert not end.converged and end.step == 2


def test_options_are_checked():
    water = molecule("H2O")
    water.calc = Calculator(toy_model(), site_energy=morse)
    with pytest.raises(ValueError, match="periodic in all three"):
        relax(water, cell=True)
    with pytest.raises(ValueError, match="free cell"):
        relax(copper(), pressure=1.0)
    with pytest.raises(ValueError, match="optimizer"):
        relax(copper(), optimizer="CG")
