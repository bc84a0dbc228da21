"""The calculator under what ASE does with one: optimizers, filters, phonons, vibrations, equations of state, saddles.

Each is held to physics: forces vanish at the energy of the perfect crystal, stress balances pressure, what is derived twice is the same.
"""

from __future__ import annotations

import warnings

import ase.optimize
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.eos import calculate_eos
from ase.filters import ExpCellFilter, Filter, FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.io import read
from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate
from ase.optimize.basin import BasinHopping
from ase.optimize.minimahopping import MinimaHopping
from ase.optimize.precon import Exp, PreconFIRE, PreconLBFGS
from ase.optimize.sciopt import SciPyFmin, SciPyFminBFGS, SciPyFminCG, SciPyFminPowell
from ase.phonons import Phonons
from ase.vibrations import Vibrations

from tests.simulate.crystal import calculator, copper
from tests.simulate.toy import LATTICE

FMAX = 5e-3  # eV/Angstrom


def perfect() -> float:
    """Energy (eV) of four atoms of fcc."""
    return copper().get_potential_energy()


@pytest.fixture(autouse=True)
def quiet():
    """ASE warns of what it will rename, and scipy of how it solves; neither is ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


OPTIMIZERS = {name: getattr(ase.optimize, name) for name in ase.optimize.__all__ if name not in ("RestartError", "CellAwareBFGS")}
OPTIMIZERS |= {kind.__name__: kind for kind in (SciPyFminCG, SciPyFminBFGS, PreconLBFGS, PreconFIRE)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name):
    atoms = copper(rattle=0.08)
    assert np.abs(atoms.get_forces()).max() > 0.3
    options = {"precon": Exp(A=3, mu=1.0)} if name.startswith("Precon") else {}
    OPTIMIZERS[name](atoms, logfile=None, **options).run(fmax=FMAX, steps=400)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= FMAX
    assert atoms.get_potential_energy() == pytest.approx(perfect(), abs=1e-3)


@pytest.mark.parametrize("kind", [SciPyFmin, SciPyFminPowell])
def test_optimizer_without_gradient(kind):
    atoms = Atoms("Cu2", [[0, 0, 0], [2.4, 0.05, 0]], calculator=calculator())
    search = kind(atoms, logfile=None)
    search.fmax = FMAX  # which `run` of ASE 3.29 asks for at its end, and sets nowhere
    search.run(ftol=1e-8, xtol=1e-5, steps=400)
    pair = Atoms("Cu2", [[0, 0, 0], [2.55, 0, 0]], calculator=calculator())
    ase.optimize.BFGS(pair, logfile=None).run(fmax=1e-5)
    assert atoms.get_potential_energy() == pytest.approx(pair.get_potential_energy(), abs=1e-5)
    assert atoms.get_distance(0, 1) == pytest.approx(pair.get_distance(0, 1), abs=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BasinHopping, MinimaHopping])
def test_global_optimizer_finds_the_triangle(kind, tmp_path, monkeypatch):
    """From a bent chain of three atoms, whose ends do not feel each other: no relaxation closes it."""
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)  # noqa: NPY002  (ASE draws from the global generator)
    atoms = Atoms("Cu3", [[-2.3, 1.0, 0], [0, 0, 0], [2.3, 1.0, 0]], calculator=calculator())
    best = Atoms("Cu3", [[0, 0, 0], [2.5, 0, 0], [1.25, 2.1, 0]], calculator=calculator())
    ase.optimize.BFGS(best, logfile=None).run(fmax=1e-4)
    if kind is BasinHopping:
        search = BasinHopping(atoms, temperature=0.05, dr=0.8, fmax=0.01, logfile=None, trajectory=None, optimizer_logfile=None)
        search.run(25)
        found = search.get_minimum()[0]
    else:
        MinimaHopping(atoms, T0=300.0, fmax=0.01, timestep=3.0)(totalsteps=8)
        found = min(frame.get_potential_energy() for frame in read("minima.traj", ":"))
    assert found == pytest.approx(best.get_potential_energy(), abs=2e-3)


@pytest.mark.parametrize("kind", [StrainFilter, UnitCellFilter, FrechetCellFilter, ExpCellFilter])
def test_cell_filter(kind):
    """A crystal that is squeezed and sheared springs back; under a pressure, its stress balances that."""
    pressure = 2 * units.GPa if kind in (UnitCellFilter, FrechetCellFilter) else 0.0
    atoms = copper(rattle=0.0 if kind is StrainFilter else 0.03)
    atoms.set_cell(atoms.cell.array @ np.array([[0.97, 0.02, 0], [0.02, 1.01, 0], [0, 0, 1.03]]), scale_atoms=True)
    moving = kind(atoms, scalar_pressure=pressure) if pressure else kind(atoms)
    ase.optimize.BFGS(moving, logfile=None).run(fmax=1e-4 if kind is StrainFilter else FMAX, steps=200)
    np.testing.assert_allclose(atoms.get_stress(), [-pressure] * 3 + [0] * 3, atol=2e-3 if kind is ExpCellFilter else 5e-4, rtol=0)
    if not pressure:
        assert atoms.get_potential_energy() == pytest.approx(perfect(), abs=2e-3)
    else:
        assert atoms.get_volume() < LATTICE**3


def test_cell_aware_bfgs():
    atoms = copper(rattle=0.03, a=0.97 * LATTICE)
    moving = FrechetCellFilter(atoms, exp_cell_factor=1.0)
    ase.optimize.CellAwareBFGS(moving, logfile=None).run(fmax=FMAX, smax=1e-4, steps=100)
    assert np.abs(atoms.get_stress()).max() <= 2e-4 and np.abs(atoms.get_forces()).max() <= FMAX
    assert atoms.get_potential_energy() == pytest.approx(perfect(), abs=1e-3)


def test_filter_that_moves_some_atoms():
    atoms = copper(rattle=0.08)
    before = atoms.positions.copy()
    ase.optimize.BFGS(Filter(atoms, indices=[1, 2]), logfile=None).run(fmax=FMAX)
    np.testing.assert_array_equal(atoms.positions[[0, 3]], before[[0, 3]])
    forces = np.linalg.norm(atoms.get_forces(), axis=1)
    assert forces[[1, 2]].max() <= FMAX < forces[[0, 3]].max()


def test_every_optimizer_of_ase_is_here():
    assert set(ase.optimize.__all__) <= {"RestartError", "CellAwareBFGS", *OPTIMIZERS}


def test_vibrations_are_the_hessian(tmp_path):
    atoms = copper(rattle=0.05)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-3, nfree=4)
    vibrations.run()
    exact = atoms.calc.get_hessian(atoms).reshape(12, 12)
    np.testing.assert_allclose(vibrations.get_vibrations().get_hessian_2d(), exact, atol=1e-6 * np.abs(exact).max(), rtol=0)
    np.testing.assert_allclose(atoms.calc.get_hessian(atoms, of=[2]).reshape(3, 12), exact[6:9], atol=1e-14 * np.abs(exact).max(), rtol=0)
    with pytest.raises(ValueError, match="from 0 to 3"):
        atoms.calc.get_hessian(atoms, of=[4])


def test_phonons_are_those_of_the_hessian(tmp_path):
    """ASE's displacements of one atom in a supercell against the exact second derivatives, at the supercell's own q points."""
    atoms = bulk("Cu", a=LATTICE)
    atoms.calc = calculator()
    found = Phonons(atoms, atoms.calc, supercell=(4, 4, 4), delta=1e-3, name=str(tmp_path / "phonon"))
    found.run()
    found.read(acoustic=True)
    q = np.array([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0], [0, 0, 0.25]])
    energies = found.band_structure(q)
    crystal = atoms * (4, 4, 4)
    rows = atoms.calc.get_hessian(crystal, of=[0]).reshape(3, 64, 3)
    lattice = np.linalg.solve(atoms.cell.array.T, (crystal.positions - crystal.positions[0]).T).T
    for k, point in enumerate(q):
        dynamical = np.einsum("ajb,j->ab", rows, np.exp(2j * np.pi * lattice @ point)) / atoms.get_masses()[0]
        exact = np.sqrt(np.linalg.eigvalsh(dynamical)) * units._hbar * 1e10 / np.sqrt(units._e * units._amu)
        np.testing.assert_allclose(energies[k], exact, rtol=1e-4)


def test_equation_of_state():
    atoms = copper()
    volume, energy, modulus = calculate_eos(atoms, eps=0.02, npoints=7).fit()
    assert volume == pytest.approx(LATTICE**3, rel=2e-3) and energy == pytest.approx(perfect(), abs=1e-4)
    h = 1e-3
    stresses = [np.mean(copper(a=LATTICE * (1 + s * h)).get_stress()[:3]) for s in (-1, 1)]
    assert modulus == pytest.approx((stresses[1] - stresses[0]) / (6 * h), rel=0.02)


def test_dimer_climbs_to_the_saddle():
    """Between two atoms that are held; by symmetry the saddle is in the middle."""
    atoms = Atoms("Cu3", [[0, 0, 0], [2.9, 0.02, 0], [6.4, 0, 0]], calculator=calculator(), constraint=FixAtoms([0, 2]))
    control = DimerControl(initial_eigenmode_method="displacement", displacement_method="vector", logfile=None, eigenmode_logfile=None)
    walker = MinModeAtoms(atoms, control, random_seed=0)
    vector = np.zeros((3, 3))
    vector[1, 0] = 0.05
    walker.displace(displacement_vector=vector)
    MinModeTranslate(walker, logfile=None).run(fmax=1e-3, steps=200)
    assert atoms.positions[1, 0] == pytest.approx(3.2, abs=1e-2) and np.linalg.norm(atoms.get_forces()[1]) < 1e-3
