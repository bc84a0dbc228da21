"""The calculator under every integrator of ASE: what is conserved is conserved, temperatures and pressures are reached."""

from __future__ import annotations

import warnings

import ase.md
import ase.optimize
import numpy as np
import pytest
from ase import units
from ase.filters import FrechetCellFilter
from ase.md import MTKNPT as TriclinicMTKNPT
from ase.md import Andersen, Bussi, IsotropicMTKNPT, Langevin, MaskedMTKNPT, NoseHooverChainNVT, VelocityVerlet
from ase.md.contour_exploration import ContourExploration
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.melchionna import MelchionnaNPT
from ase.md.nptberendsen import Inhomogeneous_NPTBerendsen, NPTBerendsen
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.switch_langevin import SwitchLangevin

from tests.simulate.crystal import calculator, copper
from tests.simulate.toy import LATTICE

FS = units.fs


@pytest.fixture(autouse=True)
def quiet():
    """ASE warns of what it will rename, which is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def spread(dynamics, steps: int, quantity) -> np.ndarray:
    values: list[float] = []
    dynamics.attach(lambda: values.append(quantity()), interval=1)
    dynamics.run(steps)
    return np.array(values)


CONSERVED = {  # integrator -> the quantity that it conserves, where it has one
    "VelocityVerlet": (lambda atoms: VelocityVerlet(atoms, 2 * FS), lambda md: md.atoms.get_total_energy()),
    "Bussi": (
        lambda atoms: Bussi(atoms, 2 * FS, 300.0, 50 * FS, rng=np.random.default_rng(0)),
        lambda md: md.atoms.get_total_energy() - md.transferred_energy,
    ),
    "NoseHooverChainNVT": (lambda atoms: NoseHooverChainNVT(atoms, 2 * FS, 300.0, 50 * FS), lambda md: md.get_conserved_energy()),
    "IsotropicMTKNPT": (lambda atoms: IsotropicMTKNPT(atoms, 2 * FS, 300.0, 0.0, 50 * FS, 500 * FS), lambda md: md.get_conserved_energy()),
    "MTKNPT": (lambda atoms: TriclinicMTKNPT(atoms, 2 * FS, 300.0, 0.0, 50 * FS, 500 * FS), lambda md: md.get_conserved_energy()),
    "MaskedMTKNPT": (
        lambda atoms: MaskedMTKNPT(atoms, 2 * FS, 300.0, 0.0, 50 * FS, 500 * FS, mask=(True, False, False)),
        lambda md: md.get_conserved_energy(),
    ),
    "MelchionnaNPT": (
        lambda atoms: MelchionnaNPT(atoms, 2 * FS, temperature_K=300.0, externalstress=0.0, ttime=50 * FS, pfactor=(500 * FS) ** 2 * 0.9),
        lambda md: md.get_gibbs_free_energy(),
    ),
}


@pytest.mark.parametrize("name", CONSERVED)
def test_integrator_conserves(name):
    atoms = copper(2, temperature=300.0)
    make, quantity = CONSERVED[name]
    dynamics = make(atoms)
    kinetic = []
    dynamics.attach(lambda: kinetic.append(atoms.get_kinetic_energy()), interval=1)
    kept = spread(dynamics, 150, lambda: quantity(dynamics))[3:]
    assert np.ptp(kept) < 0.03 * np.ptp(kinetic), (np.ptp(kept), np.ptp(kinetic))
    assert np.ptp(kinetic) > 0.1


THERMOSTATS = {
    "Langevin": lambda atoms, t: Langevin(atoms, 4 * FS, temperature_K=t, friction=0.02 / FS, rng=np.random.default_rng(0)),
    "LangevinBAOAB": lambda atoms, t: LangevinBAOAB(atoms, 4 * FS, temperature_K=t, T_tau=50 * FS, rng=np.random.default_rng(0)),
    "Andersen": lambda atoms, t: Andersen(atoms, 4 * FS, t, 0.05, rng=np.random.RandomState(0)),  # noqa: NPY002  (what it asks for)
    "NVTBerendsen": lambda atoms, t: NVTBerendsen(atoms, 4 * FS, temperature_K=t, taut=50 * FS),
    "Bussi": lambda atoms, t: Bussi(atoms, 4 * FS, t, 50 * FS, rng=np.random.default_rng(0)),
    "NoseHooverChainNVT": lambda atoms, t: NoseHooverChainNVT(atoms, 4 * FS, t, 50 * FS),
    "SwitchLangevin": lambda atoms, t: SwitchLangevin(
        atoms, calculator(), calculator(), 4 * FS, temperature_K=t, friction=0.02 / FS, n_eq=300, n_switch=200, rng=np.random.default_rng(0)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", THERMOSTATS)
def test_thermostat_reaches_its_temperature(name):
    atoms = copper(2, temperature=600.0)  # half of it goes into the potential energy
    dynamics = THERMOSTATS[name](atoms, 300.0)
    values: list[float] = []
    dynamics.attach(lambda: values.append(atoms.get_temperature()), interval=1)
    dynamics.run() if name == "SwitchLangevin" else dynamics.run(500)
    assert np.mean(values[150:]) == pytest.approx(300.0, rel=0.15)
    if name == "SwitchLangevin":
        assert dynamics.get_free_energy_difference() == pytest.approx(0.0, abs=1e-9)  # from the model to itself


BAROSTATS = {
    "NPTBerendsen": lambda atoms, p: NPTBerendsen(
        atoms, 4 * FS, temperature_K=100.0, pressure_au=p, taut=50 * FS, taup=100 * FS, compressibility_au=1.0
    ),
    "Inhomogeneous_NPTBerendsen": lambda atoms, p: Inhomogeneous_NPTBerendsen(
        atoms, 4 * FS, temperature_K=100.0, pressure_au=p, taut=50 * FS, taup=100 * FS, compressibility_au=1.0
    ),
    "LangevinBAOAB": lambda atoms, p: LangevinBAOAB(
        atoms, 4 * FS, temperature_K=100.0, T_tau=50 * FS, externalstress=-p, hydrostatic=True, P_tau=200 * FS, rng=np.random.default_rng(0)
    ),
    "IsotropicMTKNPT": lambda atoms, p: IsotropicMTKNPT(atoms, 4 * FS, 100.0, p, 50 * FS, 200 * FS),
    "MTKNPT": lambda atoms, p: TriclinicMTKNPT(atoms, 4 * FS, 100.0, p, 50 * FS, 200 * FS),
    "MelchionnaNPT": lambda atoms, p: MelchionnaNPT(
        atoms, 4 * FS, temperature_K=100.0, externalstress=p, ttime=50 * FS, pfactor=(200 * FS) ** 2 * 0.9
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAROSTATS)
def test_barostat_reaches_its_pressure(name):
    """10 GPa; the volume is then that of the equation of state, but for the little that heat adds."""
    pressure = 10 * units.GPa
    atoms = copper(2, temperature=200.0)
    volumes, stresses = [], []
    dynamics = BAROSTATS[name](atoms, pressure)
    dynamics.attach(lambda: volumes.append(atoms.get_volume()), interval=1)
    dynamics.attach(lambda: stresses.append(-atoms.get_stress(include_ideal_gas=True)[:3].mean()), interval=1)
    dynamics.run(500)
    cold = copper()
    ase.optimize.BFGS(FrechetCellFilter(cold, scalar_pressure=pressure, hydrostatic_strain=True), logfile=None).run(fmax=1e-4)
    assert np.mean(volumes[250:]) == pytest.approx(8 * cold.get_volume(), rel=0.015)
    assert np.mean(stresses[250:]) == pytest.approx(pressure, rel=0.15)
    assert cold.get_volume() < 0.96 * LATTICE**3


def test_contour_exploration_keeps_the_energy():
    atoms = copper(2, rattle=0.1)
    energy = atoms.get_potential_energy()
    walk = ContourExploration(atoms, maxstep=0.3, energy_target=energy, rng=np.random.RandomState(0), logfile=None)  # noqa: NPY002
    start = atoms.positions.copy()
    energies = spread(walk, 40, atoms.get_potential_energy)
    assert np.abs(energies[1:] - energy).max() < 0.05 * (energy - copper(2).get_potential_energy())
    assert np.abs(atoms.positions - start).max() > 0.2


def test_every_integrator_of_ase_is_here():
    assert set(ase.md.__all__) <= {"MDLogger", "thermalize_momenta", *CONSERVED, *THERMOSTATS, *BAROSTATS}
