"""Phonons: two ways to force constants agree; sound, sums and limits are those of a crystal."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.properties.phonon import band_structure, density_of_states, phonons, refuse_path, thermodynamics
from macejax.simulate import Calculator
from tests.differentiate.small import mace
from tests.properties.crystal import calculator, elastic, padded

pytest.importorskip("phonopy", reason="phonopy is not installed")

THZ_PER_ROOT = 15.633302  # of sqrt(eV / Angstrom^2 / u)


def copper(relax: bool = True):
    """Fcc in its conventional cell."""
    atoms = bulk("Cu", a=3.26, cubic=True)
    atoms.calc = calculator()
    if relax:
        BFGS(FrechetCellFilter(atoms, hydrostatic_strain=True), logfile=None).run(fmax=1e-7)
    return atoms


@pytest.fixture(scope="module")
def found():
    return phonons(copper(), (3, 3, 3))


def test_hessian_and_displacements_agree(found):
    other = phonons(copper(), (3, 3, 3), method="displacements", displacement=1e-3)
    q = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 3))
    exact, differences = (x.run_qpoints(q).frequencies for x in (found, other))
    assert exact.min() > 1
    np.testing.assert_allclose(differences, exact, atol=1e-4)
    np.testing.assert_allclose(found.run_qpoints([[0, 0, 0]]).frequencies, 0, atol=1e-3)


def test_sound_is_that_of_the_elastic_tensor(found):
    """Along [100], rho v^2 is C11 for the longitudinal branch and C44 for the others."""
    atoms = copper()
    tensor = np.asarray(elastic(padded(bulk("Cu", a=atoms.cell[0, 0]))).relaxed)
    density = atoms.get_masses().sum() / atoms.get_volume()
    wave = 0.02  # 1/Angstrom, along x
    q = np.asarray(found.primitive.cell) @ np.array([wave, 0, 0])
    frequencies = np.sort(found.run_qpoints([q]).frequencies[0])
    speeds = np.sqrt(np.array([tensor[3, 3], tensor[3, 3], tensor[0, 0]]) / density)  # Angstrom times sqrt(eV/u)/Angstrom
    np.testing.assert_allclose(frequencies, wave * speeds * THZ_PER_ROOT * 2 * np.pi, rtol=2e-3)


def test_density_of_states_and_thermodynamics(found):
    states = density_of_states(found, mesh=(12, 12, 12))
    assert np.trapezoid(states.density, states.frequencies) == pytest.approx(3, rel=0.02)
    hot = thermodynamics(found, [0.0, 100.0, 3000.0], mesh=(12, 12, 12))
    assert hot.heat_capacity[-1] == pytest.approx(3 * units.kB, rel=1e-3)  # Dulong and Petit
    assert hot.entropy[0] == 0 and hot.free_energy[0] > 0  # the zero-point energy
    mean = np.trapezoid(states.density * states.frequencies, states.frequencies)
    assert hot.free_energy[0] == pytest.approx(mean * 1e12 * units._hplanck / units._e / 2, rel=0.01)
    assert np.all(np.diff(hot.free_energy) < 0)


def test_band_structure(found):
    bands = band_structure(found, points=11, path="GXWK,GL")
    assert bands.labels == ["G", "X", "W", "K|G", "L"] and len(bands.ticks) == 5
    assert bands.frequencies.shape == (4 * 11, 3) and np.all(np.diff(bands.distances) >= 0)
    at_gamma = np.abs(bands.frequencies[np.isclose(bands.distances, 0) | np.isclose(bands.distances, bands.ticks[3])])
    assert at_gamma.min() < 1e-3
    edge = found.run_qpoints([np.asarray(found.primitive.cell) @ np.array([1 / copper().cell[0, 0], 0, 0])]).frequencies[0]
    at_edge = bands.frequencies[np.isclose(bands.distances, bands.ticks[1])][0]
    np.testing.assert_allclose(np.sort(at_edge), np.sort(edge), atol=1e-6)


def test_an_unstable_crystal_has_no_free_energy():
    stretched = copper(relax=False)
    stretched.set_cell(stretched.cell * 1.15, scale_atoms=True)
    with pytest.raises(DataError, match="imaginary"):
        thermodynamics(phonons(stretched, (2, 2, 2)), [300.0], mesh=(4, 4, 4))


@pytest.mark.slow
def test_both_ways_agree_with_a_mace():
    """With random weights, whatever its phonons are."""
    _, model = mace()
    atoms = bulk("Cu", a=3.7)
    atoms.calc = Calculator(model)
    exact = phonons(atoms, (2, 2, 2))
    other = phonons(atoms, (2, 2, 2), method="displacements", displacement=1e-3)
    scale = np.abs(exact.force_constants).max()
    assert scale > 1e-3
    np.testing.assert_allclose(other.force_constants, exact.force_constants, atol=1e-4 * scale)


def test_refusals():
    atoms = molecule("H2O")
    with pytest.raises(DataError, match="periodic"):
        phonons(atoms, (1, 1, 1))
    crystal = copper(relax=False)
    crystal.calc = EMT()
    with pytest.raises(DataError, match="EMT has no Hessian"):
        phonons(crystal, (1, 1, 1))
    with pytest.raises(ValueError, match="method"):
        phonons(copper(relax=False), (1, 1, 1), method="guess")
    crystal = copper(relax=False)
    crystal.set_constraint([FixAtoms([0]), FixSymmetry(crystal)])
    for method in ("hessian", "displacements"):
        with pytest.raises(
            DataError, match=r"Cu4: phonons are .* a constraint \(FixAtoms, FixSymmetry\), which hides forces: take it away"
        ):
            phonons(crystal, (1, 1, 1), method=method)
    with pytest.raises(ConfigError, match="displacement must be above 0"):
        phonons(copper(relax=False), (1, 1, 1), method="displacements", displacement=0.0)


@pytest.mark.parametrize(
    ("supercell", "message"),
    [
        ((0, 1, 1), r"once or more along each lattice vector, not \(0, 1, 1\)"),
        ((-2, 1, 1), "once or more"),
        ((-1, -1, 1), "once or more"),
        ((1.5, 1, 1), "three whole numbers"),
        ((float("nan"), 1, 1), "three whole numbers"),
        ((2, 2), "three whole numbers"),
        (2, "three whole numbers"),
        ("222", "three whole numbers"),
        (np.zeros((3, 3), int), "determinant of 1 or more, not 0"),
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], "determinant of 1 or more, not -1"),
    ],
)
def test_supercells_that_are_none(supercell, message):
    """Refused before the calculator is asked for anything."""
    crystal = copper(relax=False)
    crystal.calc = None
    with pytest.raises(ConfigError, match=message):
        phonons(crystal, supercell, method="displacements")


def test_a_supercell_may_be_a_matrix(found):
    crystal = bulk("Cu", a=copper().cell[0, 0])
    crystal.calc = calculator()
    other = phonons(crystal, np.array([[-3.0, 3, 3], [3, -3, 3], [3, 3, -3]]))
    assert len(other.supercell) == len(found.supercell)
    q = np.array([[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(np.sort(other.run_qpoints(q).frequencies), np.sort(found.run_qpoints(q).frequencies), atol=0.1)


@pytest.mark.parametrize("path", ["GQ7", "G", "", "G,X", "GX,", "g x", "G-X"])
def test_paths_that_the_lattice_does_not_have(found, path):
    for refuse in (lambda: band_structure(found, path=path), lambda: refuse_path(copper(relax=False), path)):
        with pytest.raises(ConfigError, match=f"path '{path}' must join .* special points, G, K, L, U, W, X"):
            refuse()


@pytest.mark.parametrize("kelvin", [-5.0, float("nan"), float("inf")])
def test_temperatures_that_are_none(found, kelvin):
    with pytest.raises(ConfigError, match=f"temperatures are 0 K or more, and finite, not {kelvin}"):
        thermodynamics(found, [300.0, kelvin], mesh=(4, 4, 4))
