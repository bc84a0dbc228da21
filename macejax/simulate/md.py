"""Molecular dynamics through ASE, watched at every step."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet

from macejax.config import ConfigError
from macejax.simulate.checks import SEEDS, check_hottest, check_masses, whole
from macejax.simulate.ensemble import BAROSTAT_TIME, RELAXATION_TIME, Ensemble, check

ABSURD = 10.0  # times the temperature that was asked for, or that the run began with: the run has exploded
COLDEST_REFERENCE = 300.0  # K; below it, `ABSURD` counts from here
JUMP = 1e6 / ABSURD  # times the kinetic energy at the temperature that ends a run: what the potential energy may change by in one step


class SimulationError(RuntimeError):
    """A simulation went where no physics is. The message says at which step, and what to look at."""


class Thermo(NamedTuple):
    """State of a running simulation."""

    step: int
    time: float  # fs
    potential_energy: float  # eV
    kinetic_energy: float  # eV
    total_energy: float  # eV; NVE conserves it
    temperature: float  # K, of 3N degrees of freedom, or as many as constraints leave
    volume: float | None  # Angstrom^3
    pressure: float | None  # GPa, ideal-gas part included


Observer = Callable[[Atoms, Thermo], None]
Stop = Callable[[], str | None]  # why a run must end now, such as the name of a signal; None while it need not


def run_md(
    atoms: Atoms,
    steps: int,
    *,
    ensemble: Literal["nve", "nvt", "npt"] = "nve",
    timestep: float = 1.0,
    temperature: float | None = None,
    pressure: float | None = None,
    relaxation_time: float | None = None,
    barostat_time: float | None = None,
    free_shape: bool = False,
    seed: int = 0,
    every: int = 10,
    observe: Observer | None = None,
    stop: Stop | None = None,
    max_temperature: float | None = None,
) -> Thermo:
    """Run `steps` steps and leave `atoms` where they then are.

    NVE is velocity Verlet. NVT is Langevin dynamics in the BAOAB splitting (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102, 2013);
    NPT adds the Langevin barostat of Quigley and Probert (J. Chem. Phys. 120, 11432, 2004).

    Args:
      atoms: structure with a calculator. Atoms at rest are given velocities of `temperature`, without motion of the whole.
      steps: number of steps.
      ensemble: what is kept constant.
      timestep: fs.
      temperature: K; needed for nvt and npt.
      pressure: GPa, npt only; None is 0.
      relaxation_time: of the thermostat, fs, nvt and npt only; None is 100.
      barostat_time: of the barostat, fs, npt only; None is 1000.
      free_shape: npt only: every component of the cell moves, not just the volume.
      seed: of initial velocities and of the thermostat.
      every: steps from one call of `observe` to the next; step 0 and the last one are always shown.
      observe: called with the atoms and the Thermo of the step. Looking changes nothing.
      stop: asked after every step; a reason ends the run there, and this step is shown.
      max_temperature: K; hotter atoms end the run, and so does a step that changes the potential energy by more than 1e5 times the
        kinetic energy that they would have. By default ten times the target, or the start.

    Returns:
      Thermo of the last step.

    Raises:
      ConfigError: options that are wrong, or that would do nothing in this ensemble; a calculator without energies.
      DataError: a mass that is not above 0.
      SimulationError: a number that is not finite, an absurd temperature, or a potential energy that jumps.
    """
    options = Ensemble(ensemble, timestep, temperature, None, relaxation_time, pressure, barostat_time, None, free_shape)
    options = check(options, atoms.pbc)
    steps, every, seed = whole("steps", steps), whole("every", every, 1), whole("seed", seed, 0, SEEDS)
    check_hottest(max_temperature)
    check_masses(atoms)
    if ensemble == "npt" and atoms.constraints:
        raise ConfigError("npt moves every atom with the cell: take the constraints away, or use nvt.")
    if "energy" not in getattr(atoms.calc, "implemented_properties", ("energy",)):
        raise ConfigError("the calculator predicts no energies, so that nothing moves: use a model of energies.")
    rng = np.random.default_rng(seed)
    if temperature is not None and not np.any(atoms.get_momenta()):
        thermalize(atoms, temperature, rng)
    dynamics = _integrator(atoms, options, rng)
    limit = hottest(atoms, temperature) if max_temperature is None else max_temperature
    most = JUMP * max(atoms.get_number_of_degrees_of_freedom(), 1) / 2 * units.kB * limit
    state = thermo(atoms, 0, timestep)

    def watch() -> None:
        nonlocal state
        before, state = state.potential_energy, thermo(atoms, dynamics.nsteps, timestep)
        jumped = abs(state.potential_energy - before) > most
        if not math.isfinite(state.total_energy) or state.temperature > limit or jumped:
            raise explosion(state.step, state.total_energy, state.temperature, limit, timestep)
        ended = stop is not None and stop() is not None
        if observe is not None and (state.step % every == 0 or state.step == steps or ended):
            observe(atoms, state)
        if ended:
            raise _Stopped

    dynamics.attach(watch, interval=1)
    with contextlib.suppress(_Stopped):
        dynamics.run(steps)
    return state


class _Stopped(Exception):
    """Leaves ASE's loop, which cannot be asked to end."""


def _integrator(atoms: Atoms, ensemble: Ensemble, rng: np.random.Generator) -> MolecularDynamics:
    """ASE's integrator for an ensemble that `check` has let pass."""
    timestep = ensemble.timestep * units.fs
    if ensemble.name == "nve":
        return VelocityVerlet(atoms, timestep)
    barostat: dict[str, Any] = {}
    if ensemble.name == "npt":
        stress = -(ensemble.pressure or 0.0) * units.GPa
        barostat = {
            "externalstress": np.eye(3) * stress if ensemble.free_shape else stress,
            "hydrostatic": not ensemble.free_shape,
            "P_tau": (ensemble.barostat_time or BAROSTAT_TIME) * units.fs,
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using heuristic P_mass")  # ASE's own choice of the barostat's mass is what we want
        relaxation_time = (ensemble.relaxation_time or RELAXATION_TIME) * units.fs
        return LangevinBAOAB(atoms, timestep, temperature_K=ensemble.temperature, T_tau=relaxation_time, rng=rng, **barostat)


def hottest(atoms: Atoms, temperature: float | None) -> float:
    """Temperature (K) above which a run of these atoms, aimed at `temperature`, has exploded."""
    return ABSURD * max(temperature or 0.0, atoms.get_temperature(), COLDEST_REFERENCE)


def explosion(step: int, total_energy: float, temperature: float, limit: float, timestep: float) -> SimulationError:
    """The error that ends a run whose numbers are not finite, or absurd."""
    if not (math.isfinite(total_energy) and math.isfinite(temperature)):
        return SimulationError(f"step {step}: the total energy is {total_energy}. Look at the start, or take a shorter timestep.")
    if temperature <= limit:
        return SimulationError(
            f"step {step}: the total energy is {total_energy:.6g} eV, after one step that changed the potential energy by more than "
            f"{JUMP:.0e} times the kinetic energy at {limit:.0f} K. The model has a hole or a wall there."
        )
    return SimulationError(
        f"step {step}: the temperature is {temperature:.0f} K, above {limit:.0f} K. It exploded: the timestep ({timestep} fs) may be too "
        "long, the start too far from equilibrium, or the model out of its depth."
    )


def thermalize(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw velocities from the Maxwell-Boltzmann distribution at `temperature` (K), take the motion of the whole away."""
    masses = atoms.get_masses()[:, None]
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    if len(atoms) > 1:
        momenta -= masses / masses.sum() * momenta.sum(axis=0)
    atoms.set_momenta(momenta)


def thermo(atoms: Atoms, step: int, timestep: float) -> Thermo:
    """What there is to say of the atoms at this step. The calculator has computed all of it already."""
    potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
    volume = pressure = None
    if "stress" in atoms.calc.results:
        volume = float(atoms.get_volume())
        pressure = float(-np.mean(atoms.get_stress(include_ideal_gas=True)[:3]) / units.GPa)
    kelvin = 2 * kinetic / (max(atoms.get_number_of_degrees_of_freedom(), 1) * units.kB)
    return Thermo(step, step * timestep, potential, kinetic, potential + kinetic, kelvin, volume, pressure)


def drift(times: np.ndarray, total_energies: np.ndarray, num_atoms: int) -> float:
    """Slope of the total energy [T] (eV) over time [T] (fs) by least squares, in meV/atom/ps."""
    return float(np.polyfit(np.asarray(times) / 1000, np.asarray(total_energies) * 1000 / num_atoms, 1)[0])
