"""Relaxation of many systems: the steps and minima of ASE, whoever shares the batch."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixCartesian
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from macejax.simulate import Calculator
from macejax.simulate.many import relax_many
from tests.simulate.toy import LATTICE, morse, toy_model

MINIMUM = 1e-6  # eV
SAME_STEPS = 1e-9  # Angstrom, over some tens of steps


@functools.cache
def calculator() -> Calculator:
    """One for all: it keeps its compiled programs."""
    return Calculator(toy_model(), site_energy=morse)


def copper(repeat=(1, 1, 1), seed: int = 0, lattice: float = LATTICE) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=lattice).repeat(repeat)
    atoms.rattle(0.05, seed=seed)
    return atoms


def cluster() -> Atoms:
    return Atoms("Cu4", [[0, 0, 0], [2.5, 0, 0], [0, 2.6, 0.1], [0.3, 0.4, 2.3]])


def slab() -> Atoms:
    atoms = fcc111("Cu", size=(1, 1, 4), a=LATTICE, vacuum=6.0)
    atoms.set_constraint([FixAtoms([0]), FixCartesian(3, mask=(True, True, False))])
    atoms.positions[1:3] += 0.1
    return atoms


def relax(systems, **options):
    return relax_many(toy_model(), systems, site_energy=morse, **options)


def with_ase(atoms: Atoms, optimizer, fmax: float, cell: bool = False, pressure: float = 0.0, **options) -> tuple[Atoms, int]:
    atoms = atoms.copy()
    atoms.calc = calculator()
    target = FrechetCellFilter(atoms, scalar_pressure=pressure * units.GPa) if cell else atoms
    algorithm = optimizer(target, logfile=None, **options)
    assert algorithm.run(fmax=fmax, steps=1000)
    return atoms, algorithm.nsteps


@pytest.mark.parametrize(("optimizer", "theirs", "options"), [("FIRE", FIRE, {}), ("LBFGS", LBFGS, {"memory": 25})])
def test_steps_are_those_of_ase(optimizer, theirs, options):
    """Positions and cell after each has converged, and the number of steps: two free cells, a molecule, and held atoms."""
    systems = [copper(lattice=1.03 * LATTICE), copper((2, 1, 1), seed=1), cluster(), slab()]
    cells, pressures, fmax = [True, True, False, False], [5.0, 0.0, 0.0, 0.0], [5e-3, 0.02, 0.05, 1e-3]
    found = relax(systems, optimizer=optimizer, cell=cells, pressure=pressures, fmax=fmax)
    assert found.summary.compilations <= 2  # under pressure, neighbours become more
    for k, result in enumerate(found.results):
        atoms, steps = with_ase(systems[k], theirs, fmax[k], cells[k], pressures[k], **options)
        assert result.end.converged and not result.stopped and result.end.step == steps
        assert [state.step for state in result.path] == list(range(steps + 1))
        assert result.end.energy == pytest.approx(atoms.get_potential_energy(), abs=MINIMUM)
        if optimizer == "FIRE":
            np.testing.assert_allclose(result.atoms.positions, atoms.positions, atol=SAME_STEPS, rtol=0)
            np.testing.assert_allclose(result.atoms.cell.array, atoms.cell.array, atol=SAME_STEPS, rtol=0)
        np.testing.assert_allclose(result.atoms.get_forces(), atoms.get_forces(), atol=2e-3, rtol=0)
    np.testing.assert_array_equal(found.results[3].atoms.positions[0], slab().positions[0])
    np.testing.assert_array_equal(found.results[3].atoms.positions[3, :2], slab().positions[3, :2])
    np.testing.assert_allclose(found.results[0].atoms.get_stress()[:3] / units.GPa, -5, atol=0.1, rtol=0)


@pytest.mark.thorough
def test_minima_are_those_of_bfgs_and_batches_do_not_matter():
    """Five systems, room for two at a time."""
    systems = [copper(seed=k) for k in range(3)] + [copper((2, 1, 1), seed=3), slab()]
    together = relax(systems, fmax=1e-4)
    few = relax(systems, fmax=1e-4, batch_atoms=8)
    assert relax(systems, fmax=1e-2, batch_atoms=8).summary.compilations == 0  # the program is kept
    for one, other, atoms in zip(together.results, few.results, systems, strict=True):
        assert one.end.converged and one.end.energy == pytest.approx(with_ase(atoms, BFGS, 1e-4)[0].get_potential_energy(), abs=MINIMUM)
        assert one.end.step == other.end.step
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=SAME_STEPS, rtol=0)
    assert few.summary.chunks > together.summary.chunks


def test_lbfgs_crosses_ground_that_curves_down():
    """A bond pulled beyond its inflection, where the curvature is negative."""
    pulled = Atoms("Cu2", [[0, 0, 0], [0, 0, 3.5]])
    found = relax([pulled, copper()], fmax=1e-4).results[0]
    assert found.end.converged and found.end.step < 25
    assert found.end.energy == pytest.approx(with_ase(pulled, BFGS, 1e-4)[0].get_potential_energy(), abs=MINIMUM)


def test_who_does_not_converge_says_so():
    bad = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.0]])  # no direction: the toy's gradient is not finite
    done, slow, fine, broken = relax([copper(), copper((2, 1, 1)), cluster(), bad], fmax=[100.0, 1e-15, 0.05, 0.05], steps=50).results
    assert done.end.step == 0 and done.end.converged and not done.stopped
    assert slow.end.step == 50 and not slow.end.converged
    assert slow.stopped.startswith("system 1 (Cu8): not converged after 50 steps: the largest force is ")
    assert fine.end.converged and not broken.end.converged and "system 3 (Cu2): step 1: " in broken.stopped
    assert "not finite" in broken.stopped


def test_stress_may_be_asked_for():
    loose, strict = relax([copper(lattice=1.02 * LATTICE)] * 2, cell=True, fmax=0.5, smax=[None, 0.05]).results
    assert np.abs(loose.atoms.get_stress()).max() / units.GPa > 0.05
    assert strict.end.converged and np.abs(strict.atoms.get_stress()).max() / units.GPa <= 0.05


def test_every_step_may_be_seen():
    seen = []
    found = relax([copper(), cluster()], fmax=0.05, observe=lambda k, atoms, state: seen.append((k, atoms, state)))
    for k, result in enumerate(found.results):
        own = [(atoms, state) for place, atoms, state in seen if place == k]
        assert [state for _, state in own] == result.path
        assert own[-1][0].get_potential_energy() == pytest.approx(result.end.energy)
        np.testing.assert_array_equal(own[-1][0].positions, result.atoms.positions)


def test_options_are_checked():
    water, half = molecule("H2O"), copper()
    half.set_constraint(FixCartesian(0, mask=(True, False, False)))
    for systems, options, message in (
        ([copper(), water], {"cell": True}, r"system 1 \(H2O\): only the cell"),
        ([copper()], {"pressure": 1.0}, "a free cell only"),
        ([copper()], {"smax": 1.0}, "free cell"),
        ([copper()], {"optimizer": "BFGS"}, "FIRE or LBFGS"),
        ([copper()], {"fmax": 0.0}, "above 0"),
        ([half], {"cell": True}, "some directions only"),
        ([copper()], {"fmax": [0.1, 0.1]}, "2 values for 1 systems"),
    ):
        with pytest.raises(ValueError, match=message):
            relax(systems, **options)
