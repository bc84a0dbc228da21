"""The ASE calculator of models of dipoles and polarizabilities: mace-torch's numbers, through a neighbour list that is kept."""

from __future__ import annotations

from pathlib import Path

import ase
import jax
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError

import macejax
from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.simulate import run_md
from tests.parity.compare import DERIVATIVES, ENERGY, assert_close

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "moments_AtomicDielectricMACE.mace"


@pytest.mark.thorough
def test_dielectric_calculator() -> None:
    frozen = np.load(MODEL.with_suffix(".npz"))
    known = {name.split("/")[1]: frozen[name] for name in frozen.files if name.startswith("slab/")}
    atoms = ase.Atoms(**{name: known[name] for name in ("numbers", "positions", "cell", "pbc")}, info={"charge": 2.0})
    calculator = macejax.Calculator(MODEL)
    atoms.calc = calculator
    assert calculator.implemented_properties == ["dipole", "charges", "polarizability", "polarizability_sh"]
    with pytest.raises(ConfigError, match="nothing moves"):
        run_md(atoms, 1)
    # one evaluation elsewhere, so that the one that counts is with a list that was made for other positions
    random = np.random.default_rng(0)
    atoms.positions += random.normal(scale=0.02, size=atoms.positions.shape) + [1.0, 2.0, 3.0]
    atoms.get_dipole_moment()
    atoms.positions = known["positions"]
    assert_close(atoms.get_dipole_moment(), known["dipole"], ENERGY, "dipole")
    assert calculator.num_rebuilds == 1
    assert_close(atoms.get_charges(), known["charges"], ENERGY, "charges")
    for name in ("polarizability", "polarizability_sh"):
        assert_close(calculator.get_property(name, atoms), known[name], ENERGY, name)
    dipole, polarizability = calculator.get_dielectric_derivatives(atoms)
    assert_close(dipole, known["dmu_dr"], DERIVATIVES, "dmu_dr")
    assert_close(polarizability, known["dalpha_dr"], DERIVATIVES, "dalpha_dr")
    # the total charge is the sum of the charges, and is looked at again
    assert atoms.get_charges().sum() == pytest.approx(2.0, abs=1e-10)
    atoms.info["charge"] = -1.0
    assert atoms.get_charges().sum() == pytest.approx(-1.0, abs=1e-10)
    # by the name that files have too, but not by both when they differ
    del atoms.info["charge"]
    atoms.info["total_charge"] = 1.0
    assert atoms.get_charges().sum() == pytest.approx(1.0, abs=1e-10)
    atoms.info["charge"] = 0.0
    with pytest.raises(DataError, match="'charge' and 'total_charge' contradict"):
        atoms.get_charges()
    del atoms.info["total_charge"]
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match="neither energies nor forces"):
        calculator.get_hessian(atoms)
    atoms.info["charge"] = np.nan
    with pytest.raises(DataError, match="total_charge"):
        atoms.get_charges()


def test_committee_of_dipoles() -> None:
    """Mean and variance of the dipole; one compiled program for both."""
    model = macejax.load(MODEL)
    other = model._replace(params=jax.tree.map(lambda x: 1.1 * x, model.params))
    frozen = np.load(MODEL.with_suffix(".npz"))
    atoms = ase.Atoms(frozen["molecule/numbers"], frozen["molecule/positions"], info={"charge": 2.0})
    atoms.calc = macejax.Committee([model, other])
    mean, members = atoms.get_dipole_moment(), atoms.calc.results["dipole_comm"]
    assert_close(members[0], frozen["molecule/dipole"], ENERGY, "dipole")
    assert np.abs(members[1] - members[0]).max() > 1e-3
    np.testing.assert_allclose(mean, members.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(atoms.calc.results["dipole_var"], members.var(axis=0), rtol=1e-14)
    assert [member.num_compilations for member in atoms.calc.members] == [1, 0]
