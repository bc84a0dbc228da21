"""The ASE calculator: right numbers, few compilations, lists that are never stale, refusals in a sentence."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import CalculationFailed, PropertyNotImplementedError

from macejax.data.batch import Capacity
from macejax.data.structure import DataError
from macejax.simulate import Calculator
from macejax.simulate.verlet import choose
from tests.simulate.toy import CUTOFF, E0S, morse, toy_model

SAME = 1e-10  # eV, eV/Angstrom: float64, other order of sums
FINITE_DIFFERENCE = 1e-7  # eV/Angstrom, eV/Angstrom^3
SINGLE = 1e-5  # relative to the largest force


def calculator(**options) -> Calculator:
    return Calculator(toy_model(), site_energy=morse, **options)


def copper(repeat: int = 2, seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    atoms.rattle(0.05, seed=seed)
    return atoms


def brute_force(atoms: Atoms) -> float:
    """Energy (eV) by a loop over images, with no neighbour list."""
    parameters = toy_model().params
    energy = sum({1: E0S[0], 8: E0S[1], 29: E0S[2]}[z] for z in atoms.numbers)
    reach = [range(-3, 4) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array(np.meshgrid(*reach)).reshape(3, -1).T @ atoms.cell.array
    for position in atoms.positions:
        vectors = (atoms.positions[None] + shifts[:, None] - position).reshape(-1, 3)
        r = np.linalg.norm(vectors, axis=1)
        r = r[(r > 1e-9) & (r < CUTOFF)]
        bond = float(parameters["depth"]) * ((1 - np.exp(-float(parameters["a"]) * (r - float(parameters["r0"])))) ** 2 - 1)
        energy += np.sum(bond * (1 - (r / CUTOFF) ** 2) ** 4) / 2
    return float(energy)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, True), (False, False, False)])
def test_energy_of_any_boundary(pbc):
    atoms = copper(1)
    atoms.pbc = pbc
    atoms.positions += 17.0  # far outside of the cell
    atoms.calc = calculator()
    assert atoms.get_potential_energy() == pytest.approx(brute_force(atoms), abs=SAME)
    assert atoms.calc.results["free_energy"] == atoms.calc.results["energy"]
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=SAME)


def test_energies_hold_their_e0s():
    atoms = Atoms("HO", [(0, 0, 0), (50, 0, 0)], calculator=calculator())
    np.testing.assert_allclose(atoms.get_potential_energies(), E0S[:2], atol=SAME, rtol=0)


@pytest.mark.x32
def test_forces_stress_and_virials_are_derivatives():
    """Also where jax's own default is float32: the calculator computes in the precision it was asked for."""
    atoms = copper(1)
    atoms.set_cell(atoms.cell.array @ np.array([[1.02, 0.03, 0], [0.03, 0.98, 0.01], [0, 0.01, 1.0]]), scale_atoms=True)
    atoms.calc = calculator()
    forces, stress, virials = atoms.get_forces(), atoms.get_stress(voigt=False), atoms.calc.get_property("virials")
    h = 1e-4
    for atom, axis in ((0, 0), (3, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * h
            energies.append(brute_force(moved))
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=FINITE_DIFFERENCE)
    for i, j in ((0, 0), (0, 1), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(brute_force(strained))
        assert stress[i, j] == pytest.approx((energies[0] - energies[1]) / (2 * h) / atoms.get_volume(), abs=FINITE_DIFFERENCE)
    np.testing.assert_allclose(virials.sum(axis=0), -stress * atoms.get_volume(), atol=SAME, rtol=0)
    np.testing.assert_allclose(atoms.get_stresses().sum(axis=0), atoms.get_stress(), atol=SAME, rtol=0)
    e0s = np.asarray(atoms.calc.model.config.e0s)[[atoms.calc.model.config.elements.index(number) for number in atoms.numbers]]
    np.testing.assert_allclose(atoms.calc.get_property("node_energy") + e0s, atoms.calc.get_property("energies"), atol=SAME, rtol=0)
    np.testing.assert_allclose(virials, np.swapaxes(virials, 1, 2), atol=SAME, rtol=0)


def test_edge_virial_is_shared_half_and_half():
    atoms = Atoms("Cu2", [(0, 0, 0), (2.2, 0, 0)], calculator=calculator())
    force = atoms.get_forces()[1, 0]
    virials = atoms.calc.get_property("virials")
    np.testing.assert_allclose(virials[:, 0, 0], [force * 2.2 / 2] * 2, atol=SAME, rtol=0)


def test_float32():
    atoms, rough = copper(), copper()
    atoms.calc, rough.calc = calculator(), calculator(dtype="float32")
    scale = np.abs(atoms.get_forces()).max()
    np.testing.assert_allclose(rough.get_forces(), atoms.get_forces(), atol=SINGLE * scale, rtol=0)
    assert np.abs(rough.get_forces() - atoms.get_forces()).max() > 1e-12 * scale  # it was not float64
    assert rough.get_forces().dtype == np.float64
    assert np.abs(rough.get_forces().sum(axis=0)).max() < 1e-4 * len(atoms)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_a_kept_list_equals_a_fresh_one(pbc):
    """Atoms wander, the whole drifts and the cell breathes; the kept list gives what a new one gives, and is seldom made."""
    rng = np.random.default_rng(1)
    atoms = fcc111("Cu", (2, 2, 3), vacuum=None if pbc[2] else 4.0)
    atoms.pbc = pbc
    if pbc[2]:
        atoms.set_cell(bulk("Cu", cubic=True).repeat((2, 2, 2)).cell)
    kept = atoms.copy()
    kept.calc, always_new = calculator(skin=0.6), calculator(skin=0.0)
    for _ in range(40):
        kept.positions += rng.normal(0, 0.03, kept.positions.shape) + 0.1
        if any(pbc):
            kept.set_cell(kept.cell.array @ (np.eye(3) + rng.normal(0, 0.002, (3, 3))), scale_atoms=True)
        fresh = kept.copy()
        fresh.calc = always_new
        np.testing.assert_allclose(kept.get_potential_energy(), fresh.get_potential_energy(), atol=SAME, rtol=0)
        np.testing.assert_allclose(kept.get_forces(), fresh.get_forces(), atol=SAME, rtol=0)
    assert 2 <= kept.calc.num_rebuilds <= 20
    assert kept.calc.num_evaluations == always_new.num_evaluations == always_new.num_rebuilds == 40


def test_atoms_that_come_into_reach_are_seen():
    """Each moves by a little more than half the skin: the pair was beyond the list and is now within the cutoff."""
    atoms = Atoms("Cu2", [(0, 0, 0), (CUTOFF + 0.55, 0, 0)], calculator=calculator(skin=0.5))
    assert atoms.get_potential_energy() == pytest.approx(2 * E0S[2], abs=1e-14)
    atoms.positions[0, 0] += 0.9
    atoms.positions[1, 0] -= 0.9
    assert atoms.get_potential_energy() == pytest.approx(brute_force(atoms), abs=SAME)
    assert atoms.get_potential_energy() < 2 * E0S[2] - 1e-4


def test_a_shrinking_cell_is_seen():
    atoms = Atoms("Cu", cell=[4.55] * 3, pbc=True, calculator=calculator(skin=0.5))
    assert atoms.get_potential_energy() == pytest.approx(E0S[2], abs=1e-14)
    atoms.set_cell([2.8] * 3)
    assert atoms.get_potential_energy() == pytest.approx(brute_force(atoms), abs=SAME)
    assert atoms.get_potential_energy() < E0S[2] - 1e-3


def test_changed_boundary_conditions_and_elements_are_seen():
    atoms = copper(1)
    atoms.calc = calculator()
    atoms.get_potential_energy()
    atoms.pbc = (True, True, False)
    assert atoms.get_potential_energy() == pytest.approx(brute_force(atoms), abs=SAME)
    atoms.numbers[0] = 8
    assert atoms.get_potential_energy() == pytest.approx(brute_force(atoms), abs=SAME)


def test_wrapping_between_calls_changes_nothing():
    atoms = copper(2)
    atoms.calc = calculator()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.positions[::3] += atoms.cell.array[1] * 4 - atoms.cell.array[2]
    np.testing.assert_allclose(atoms.get_potential_energy(), energy, atol=SAME, rtol=0)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=SAME, rtol=0)


def test_compilations_are_counted_and_few():
    calc = calculator()
    sizes = [4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32]
    atoms = copper()
    for size in sizes + sizes[::-1]:
        part = atoms[:size]
        part.calc = calc
        assert part.get_potential_energy() == pytest.approx(brute_force(part), abs=SAME)
    assert 2 <= calc.num_compilations <= 9


def test_capacities_grow_geometrically():
    capacities: list[Capacity] = []
    for nodes in range(1, 1001):
        chosen = choose(capacities, Capacity(nodes, 4 * (1 + nodes // 20), 2, 1))
        assert chosen.nodes >= nodes and chosen.slots >= 4 * (1 + nodes // 20)
        if chosen not in capacities:
            capacities.append(chosen)
    assert len(capacities) < 45
    assert choose(capacities, Capacity(2, 4, 2, 1)).nodes <= 4  # a small structure after large ones is not padded to their size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda atoms: atoms.numbers.__setitem__(0, 79), "Au"),
        (lambda atoms: atoms.positions.__setitem__((2, 1), np.nan), "positions"),
        (lambda atoms: atoms.cell.__setitem__(0, [np.inf, 0, 0]), "cell"),
        (lambda atoms: atoms.cell.__setitem__(0, [0, 0, 0]), "cell"),
        (lambda atoms: atoms.__delitem__(slice(None)), "atom"),
    ],
)
def test_refusals(change, message):
    atoms = copper(1)
    change(atoms)
    atoms.calc = calculator()
    with pytest.raises(DataError, match=message):
        atoms.calc.get_property("energy", atoms)


def test_a_molecule_has_no_stress_but_virials():
    atoms = molecule("H2O")
    atoms.calc = calculator()
    with pytest.raises(PropertyNotImplementedError, match="H2O has no stress"):
        atoms.get_stress()
    assert atoms.calc.get_property("virials", atoms).shape == (3, 3, 3)
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0)
    slab.calc = calculator()
    assert np.isfinite(slab.get_stress()).all()


def test_numbers_that_are_not_finite_are_refused():
    def broken(params, vectors, graph):
        return morse(params, vectors, graph) / (jax.numpy.linalg.norm(vectors[:, 0]) * 0)

    atoms = copper(1)
    atoms.calc = Calculator(toy_model(), site_energy=broken)
    with pytest.raises(CalculationFailed, match="atom 0"):
        atoms.get_forces()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_coincident_atoms_are_named(dtype):
    """Also an image of another atom, and one of the atom itself; what is a little farther away is computed."""
    calc = calculator(dtype=dtype)
    two = Atoms("HOCu", [[90, 0, 0], [93, 0, 0], [93, 0, 0]])
    with pytest.raises(CalculationFailed, match=r"within 0.001 Angstrom of each of the atoms 1 \(O\), 2 \(Cu\)\."):
        calc.get_potential_energy(two)
    image = Atoms("OCu", [[0.0004, 0, 0], [5, 0, 0]], cell=[5, 5, 5], pbc=True)
    with pytest.raises(CalculationFailed, match=r"0 \(O\), 1 \(Cu\)"):
        calc.get_potential_energy(image)
    image.positions[0, 0] = 0.002
    assert np.isfinite(calc.get_potential_energy(image))
    assert calc.get_potential_energy(Atoms("H")) == pytest.approx(E0S[0])  # which has no neighbour


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"of names one atom or more, from 0 to 0, not \(\)"):
        calculator().get_hessian(Atoms("H"), of=[])
    with pytest.raises(ValueError, match=r"of names one atom or more, from 0 to 0, not \(1,\)"):
        calculator().get_hessian(Atoms("H"), of=[1])
    with pytest.raises(ValueError, match="skin"):
        calculator(skin=-1)
    with pytest.raises(ValueError, match="dtype"):
        calculator(dtype="float16")
