"""What a simulation keeps constant, and by which means."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from ase import units

from macejax.config import ConfigError
from macejax.simulate.barostat import cell_rescaling
from macejax.simulate.checks import check_conditions
from macejax.simulate.integrators import Middle, Settings, langevin, nose_hoover, nothing, velocity_rescaling

THERMOSTATS = {"langevin": langevin, "csvr": velocity_rescaling, "nose_hoover": nose_hoover}
RELAXATION_TIME = 100.0  # fs
BAROSTAT_TIME = 1000.0  # fs
COMPRESSIBILITY = 0.1  # 1/GPa: between that of water, 0.45, and of metals, 0.01


class Ensemble(NamedTuple):
    """An ensemble and the numbers of its integrator. None is the default; an option that would do nothing is refused by `check`."""

    name: Literal["nve", "nvt", "npt"] = "nve"
    timestep: float = 1.0  # fs
    temperature: float | None = None  # K; nvt and npt need it
    thermostat: Literal["langevin", "csvr", "nose_hoover"] | None = None  # langevin
    relaxation_time: float | None = None  # of the thermostat, fs; 100
    pressure: float | None = None  # GPa, npt only; 0
    barostat_time: float | None = None  # fs, npt only: with a right compressibility, how long the volume takes to relax; 1000
    compressibility: float | None = None  # 1/GPa, npt only; 0.1. Only its ratio to the barostat's time matters
    free_shape: bool = False  # npt only: every component of the cell moves, not just the volume


def check(ensemble: Ensemble, pbc: np.ndarray) -> Ensemble:
    """The ensemble, its numbers as Python has them, for state files; or a sentence that says what is wrong with it.

    Raises:
      ConfigError
    """
    name = ensemble.name
    if name not in ("nve", "nvt", "npt"):
        raise ConfigError(f"ensemble must be nve, nvt or npt, not {name!r}.")
    check_conditions(ensemble._asdict())
    barostat = ("pressure", "barostat_time", "compressibility", "free_shape")
    ignored = [] if name == "npt" else [key for key in barostat if getattr(ensemble, key) not in (None, False)]
    if name == "nve":
        ignored += [key for key in ("thermostat", "relaxation_time") if getattr(ensemble, key) is not None]
    if ignored:
        raise ConfigError(f"{name} would ignore {', '.join(ignored)}: leave it out, or choose another ensemble.")
    if name != "nve" and not ensemble.temperature:
        raise ConfigError(f"{name} needs a temperature above 0 K, not {ensemble.temperature}.")
    if ensemble.thermostat is not None and ensemble.thermostat not in THERMOSTATS:
        raise ConfigError(f"thermostat must be one of {', '.join(THERMOSTATS)}, not {ensemble.thermostat!r}.")
    if name == "npt" and not pbc.all():
        raise ConfigError("npt needs a structure that is periodic in all three directions.")
    numbers: dict[str, Any] = {
        key: float(value) for key, value in ensemble._asdict().items() if isinstance(value, int | float | np.number) and key != "free_shape"
    }
    return ensemble._replace(**numbers, free_shape=bool(ensemble.free_shape))


def middle_of(ensemble: Ensemble) -> Middle:
    """What happens in the middle of a step."""
    if ensemble.name == "nve":
        return nothing
    thermostat = THERMOSTATS[ensemble.thermostat or "langevin"]
    return thermostat if ensemble.name == "nvt" else cell_rescaling(thermostat, free_shape=ensemble.free_shape)


def keeps_momentum(ensemble: Ensemble) -> bool:
    """Whether the motion of the whole is conserved, so that a thermostat must not heat it."""
    return ensemble.name == "nve" or ensemble.thermostat in ("csvr", "nose_hoover")


def settings_of(ensemble: Ensemble, masses: np.ndarray, free: np.ndarray | None = None) -> Settings:
    """The numbers of an ensemble in ASE's units, for masses [N] (amu), of which `free` [N, 3] says what may move; all where not given."""
    number = len(masses)
    free = np.ones((number, 3), bool) if free is None else free
    freedoms = int(free.sum()) - (int(free.all(axis=0).sum()) if keeps_momentum(ensemble) and number > 1 else 0)
    at_rest = ensemble.name == "nve"
    compressibility = COMPRESSIBILITY if ensemble.compressibility is None else ensemble.compressibility
    barostat_time = BAROSTAT_TIME if ensemble.barostat_time is None else ensemble.barostat_time
    relaxation_time = RELAXATION_TIME if ensemble.relaxation_time is None else ensemble.relaxation_time
    values = Settings(
        timestep=ensemble.timestep * units.fs,
        masses=np.asarray(masses, np.float64)[:, None],
        thermal_energy=0.0 if at_rest else ensemble.temperature * units.kB,
        relaxation_time=0.0 if at_rest else relaxation_time * units.fs,
        freedoms=freedoms,
        pressure=(ensemble.pressure or 0.0) * units.GPa if ensemble.name == "npt" else 0.0,
        free=free,
        mobility=compressibility / units.GPa / (barostat_time * units.fs) if ensemble.name == "npt" else 0.0,
    )
    return Settings(*(jnp.asarray(value, bool if name == "free" else jnp.float64) for name, value in values._asdict().items()))
