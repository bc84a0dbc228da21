"""Equation of state, molecules and barriers: against what is known of the toy."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength
from ase.optimize import BFGS

from macejax.config import ConfigError
from macejax.data.read import from_atoms
from macejax.data.structure import DataError
from macejax.differentiate.crystal import bulk_modulus, equilibrium_scale
from macejax.differentiate.graph import window
from macejax.properties.barrier import reaction_path
from macejax.properties.elastic import GPA
from macejax.properties.eos import equation_of_state, fit
from macejax.properties.molecule import molecular_free_energy
from macejax.simulate import Calculator
from tests.differentiate.small import toy
from tests.properties.crystal import calculator, padded
from tests.simulate.toy import LATTICE


def test_equation_of_state_is_that_of_the_derivatives():
    site_energy, model = toy()
    atoms = bulk("Cu", a=3.2)
    atoms.calc = calculator()
    found = equation_of_state(atoms, strain=0.03, points=7)
    graph = padded(atoms)

    @jax.jit
    def exact():
        scale, _ = equilibrium_scale(site_energy, model.params, graph)
        return scale, GPA * bulk_modulus(site_energy, model.params, graph, scale)

    scale, modulus = exact()
    assert found.scale == pytest.approx(float(scale), rel=2e-4)
    assert found.scale * 3.2 == pytest.approx(LATTICE, rel=1e-3)
    assert found.bulk_modulus == pytest.approx(float(modulus), rel=0.02)
    assert 2 < found.derivative < 10 and found.residual < 1e-3
    np.testing.assert_allclose(found.curve(found.volumes), found.energies, atol=3 * found.residual + 1e-12)


def test_fit_finds_what_was_put_in():
    volumes = np.linspace(9, 13, 9)
    eta = (11.0 / volumes) ** (2 / 3)
    modulus = 140 * units.GPa
    energies = -1000.0 + 9 * 11.0 * modulus / 16 * ((eta - 1) ** 3 * 5.2 + (eta - 1) ** 2 * (6 - 4 * eta))
    found = fit(volumes, energies, 11.0)
    assert (found.volume, found.energy) == pytest.approx((11.0, -1000.0), rel=1e-8)
    assert (found.bulk_modulus, found.derivative) == pytest.approx((140, 5.2), rel=1e-6)
    with pytest.raises(DataError, match="smaller end"):
        fit(volumes[6:], energies[6:], 11.0)


def test_refusals():
    atoms = molecule("H2O")
    with pytest.raises(DataError, match="periodic"):
        equation_of_state(atoms)
    with pytest.raises(ValueError, match="points"):
        equation_of_state(bulk("Cu"), points=4)


def test_held_atoms_do_not_settle():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    free = equation_of_state(atoms, points=5)
    atoms.set_constraint(FixAtoms([0]))
    assert equation_of_state(atoms, points=5).energies == pytest.approx(free.energies)  # where nothing moves, nothing is held
    with pytest.raises(DataError, match=r"equations of state with relax .* a constraint \(FixAtoms\)"):
        equation_of_state(atoms, points=5, relax=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 K"),
        ({"temperature": -10.0}, "temperature must be above 0 K"),
        ({"temperature": float("inf")}, "temperature must be above 0 K and finite"),
        ({"pressure": 0.0}, "pressure must be above 0 Pa"),
        ({"pressure": float("nan")}, "pressure must be above 0 Pa"),
        ({"symmetry_number": 0}, "symmetry_number must be a whole number, 1 or more, not 0"),
        ({"symmetry_number": 1.5}, "symmetry_number must be a whole number"),
        ({"spin": -0.5}, r"spin must be 0, 0\.5"),
        ({"spin": 0.3}, r"spin must be 0, 0\.5"),
    ],
)
def test_conditions_of_no_gas(options, message):
    atoms = Atoms("Cu", calculator=EMT())
    with pytest.raises(ConfigError, match=message):
        molecular_free_energy(atoms, **options)


def test_a_held_molecule_is_refused():
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0]], calculator=EMT(), constraint=FixAtoms([0, 1]))  # it seems to be at rest
    with pytest.raises(DataError, match=r"free energies of molecules .* a constraint \(FixAtoms\), which hides forces"):
        molecular_free_energy(atoms)


@pytest.mark.parametrize("constraint", [FixAtoms([1]), FixBondLength(0, 1)])
@pytest.mark.parametrize("held", [0, 1])
def test_a_path_does_not_move_what_is_held(constraint, held):
    ends = [Atoms("Cu2", [[0, 0, 0], [0, 0, z]]) for z in (2.3, 2.6)]
    ends[held].set_constraint(constraint)
    with pytest.raises(DataError, match="holds atoms that move on the way"):
        reaction_path(*ends, EMT)


def test_a_path_of_atoms_beside_held_ones():
    """One atom is held, at the end as an image of itself, and another goes through the cell's face."""
    places = ([[0, 0, 0], [2.0, 2.0, 0.3]], [[4, 0, 0], [2.0, 2.0, 11.7]])
    ends = [Atoms("Cu2", place, cell=[4, 4, 12], pbc=True, constraint=FixAtoms([0])) for place in places]
    found = reaction_path(*ends, EMT, images=3, steps=1)
    assert [image.positions[0].tolist() for image in found.images] == [[0, 0, 0], [0, 0, 0], [4, 0, 0]]
    assert found.images[1].get_distance(0, 1, mic=True) == pytest.approx(np.sqrt(8), abs=0.1)


def test_diatomic_molecule():
    """Frequency sqrt(k / mu), and the ideal gas of Sackur, Tetrode and a rigid rotor."""
    site_energy, model = toy()
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 2.5]])
    atoms.calc = calculator()
    with pytest.raises(DataError, match="not relaxed"):
        molecular_free_energy(atoms)
    BFGS(atoms, logfile=None).run(fmax=1e-7)
    found = molecular_free_energy(atoms, 500.0, 1e5)
    h, energies = 1e-3, []
    for step in (-1, 0, 1):
        image = atoms.copy()
        image.positions[1, 2] += h * step
        image.calc = calculator()
        energies.append(image.get_potential_energy())
    masses = atoms.get_masses()
    reduced = masses.prod() / masses.sum()
    stiffness = (energies[0] - 2 * energies[1] + energies[2]) / h**2
    quantum = units._hbar * np.sqrt(stiffness * units._e * 1e20 / (reduced * units._amu)) / units._e  # eV
    assert found.geometry == "linear" and found.frequencies.shape == (1,)
    assert found.frequencies[0] * units.invcm == pytest.approx(quantum, rel=1e-4)
    assert found.zero_point_energy == pytest.approx(quantum / 2, rel=1e-4)
    kt = units.kB * 500.0
    thermal = (2 * np.pi * masses.sum() * units._amu * units._k * 500.0 / units._hplanck**2) ** 1.5 * units._k * 500.0 / 1e5
    rotor = units._k * 500.0 * 2 * reduced * units._amu * (atoms.get_distance(0, 1) * 1e-10) ** 2 / units._hbar**2
    x = quantum / kt
    entropy = units.kB * (np.log(thermal) + 2.5 + np.log(rotor) + 1 + x / (np.exp(x) - 1) - np.log(1 - np.exp(-x)))
    assert found.entropy == pytest.approx(entropy, rel=1e-4)
    assert found.gibbs_energy == pytest.approx(found.enthalpy - 500.0 * found.entropy, abs=1e-10)


def test_a_molecule_at_a_saddle_is_refused():
    atoms = Atoms("Cu4", [[0, 0, 0], [2.6, 0, 0], [2.6, 2.6, 0], [0, 2.6, 0]])  # a square; a tetrahedron has two bonds more
    atoms.calc = calculator()
    BFGS(atoms, logfile=None).run(fmax=1e-6)
    with pytest.raises(DataError, match="imaginary"):
        molecular_free_energy(atoms)
    atoms.pbc = True
    with pytest.raises(DataError, match="not periodic"):
        molecular_free_energy(atoms)


def test_barrier_of_a_vacancy_equals_the_saddle_point():
    """A vacancy of fcc hops; by symmetry its path is straight, and the middle is the saddle."""
    crystal = bulk("Cu", a=LATTICE, cubic=True) * (2, 2, 1)
    crystal.calc = calculator()
    initial, final = crystal.copy(), crystal.copy()
    mover = int(np.argmin(crystal.get_distances(0, range(1, 16), mic=True))) + 1
    final.positions[mover] = crystal.positions[0]
    middle = final.copy()
    middle.positions[mover] = crystal.positions[mover] + crystal.get_distance(0, mover, mic=True, vector=True) * -0.5
    ends = []
    for image in (initial, final, middle):
        del image[0]
        image.calc = calculator()
        if image is not middle:
            assert BFGS(image, logfile=None).run(fmax=1e-3)
            ends.append(image)
    shared = calculator()

    def make():
        site_energy, model = toy()
        own = Calculator(model, site_energy=site_energy)
        own.share_program(shared)
        return own

    path = reaction_path(*ends, make, images=5, fmax=0.01)
    assert path.converged and path.largest_force <= 0.011
    assert abs(path.reaction_energy) < 1e-3 and int(np.argmax(path.energies)) == 2
    BFGS(middle, logfile=None).run(fmax=1e-4)  # symmetry keeps it on the ridge
    assert path.barrier == pytest.approx(middle.get_potential_energy() - ends[0].get_potential_energy(), abs=2e-3)
    assert path.barrier > 0.1
    with pytest.raises(DataError, match="same atoms"):
        reaction_path(ends[0], crystal, make)


def test_hessian_vector_product():
    from macejax.potential import hessian, hessian_vector_product

    site_energy, model = toy()
    atoms = bulk("Cu", a=3.3, cubic=True)
    atoms.rattle(0.1, seed=1)
    graph = window(from_atoms(atoms), model.config.elements, model.config.cutoff, 0.0)
    direction = np.random.default_rng(0).normal(size=(4, 3))
    matrix = jax.jit(lambda g: hessian(site_energy, model.params, g))(graph)
    np.testing.assert_allclose(
        jax.jit(lambda g: hessian_vector_product(site_energy, model.params, g, direction))(graph),
        np.einsum("iajb,jb->ia", matrix, direction),
        atol=1e-10,
    )
    some = jax.jit(lambda g: hessian(site_energy, model.params, g, of=(2, 0), chunk=4))(graph)
    np.testing.assert_allclose(some, matrix[np.array([2, 0])], atol=1e-10)
