"""What all engines ask of their options and atoms alike, refused in a sentence."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.model.model import Model

MANY_SEEDS = 2**32 - 1  # the largest of `run_many`
SEEDS = 2**63 - 1  # and that of one system


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """The value as Python's integer: a number of steps that is not whole would never be reached.

    Raises:
      ConfigError: it is no integer, or less than `least`, or more than `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, not {value!r}.") from None
    if number < least or (most is not None and number > most):
        raise ConfigError(f"{name} must be {f'{least} or more' if most is None else f'from {least} to {most}'}, not {number}.")
    return number


def above_zero(name: str, value: float, unit: str = "") -> None:
    """Refuse a number that is not above 0, or not finite.

    Raises:
      ConfigError
    """
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} must be above 0{unit and ' '}{unit} and finite, not {value}.")


def finite(name: str, value: float, unit: str) -> None:
    """Refuse a number that is NaN or infinite.

    Raises:
      ConfigError
    """
    if not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number ({unit}), not {value}.")


def check_conditions(options: Mapping[str, Any], where: str = "") -> None:
    """Refuse numbers of an ensemble that no simulation could keep to; None, for what is left at its default, is none.

    Args:
      options: timestep, temperature, pressure, relaxation_time, barostat_time and compressibility, in the units of `Ensemble`.
      where: what an error begins with.

    Raises:
      ConfigError
    """
    for name, unit in (("timestep", "fs"), ("relaxation_time", "fs"), ("barostat_time", "fs"), ("compressibility", "1/GPa")):
        if options[name] is not None:
            above_zero(f"{where}{name}", options[name], unit)
    if options["temperature"] is not None and not 0 <= options["temperature"] < math.inf:
        raise ConfigError(f"{where}a temperature is 0 K or more, and finite, not {options['temperature']}.")
    if options["pressure"] is not None:
        finite(f"{where}pressure", options["pressure"], "GPa")


def check_skin(skin: float, zero: bool = True) -> None:
    """Refuse a skin that is negative or not finite, or 0 where `zero` is not allowed.

    Raises:
      ConfigError
    """
    if not (skin >= 0 if zero else skin > 0) or math.isinf(skin):
        raise ConfigError(f"skin must be {'0 or more' if zero else 'above 0'} (Angstrom) and finite, not {skin}.")


def check_hottest(max_temperature: float | None, where: str = "") -> None:
    """Refuse a temperature above which a run ends that every run is above; infinity is for one that is never to end so.

    Raises:
      ConfigError
    """
    if max_temperature is not None and not max_temperature > 0:
        raise ConfigError(f"{where}max_temperature must be above 0 K, not {max_temperature}; leave it out for the default.")


def check_masses(atoms: Atoms, name: str = "") -> None:
    """Refuse atoms that nothing would move as it should.

    Args:
      name: what an error calls the system.

    Raises:
      DataError: a mass that is not above 0, or not finite.
    """
    masses = atoms.get_masses()
    bad = ~((masses > 0) & np.isfinite(masses))
    if bad.any():
        atom = int(np.argmax(bad))
        what = f"atom {atom} ({chemical_symbols[atoms.numbers[atom]]}) has the mass {masses[atom]}"
        raise DataError(f"{name or atoms.get_chemical_formula()}: {what}, but a mass is above 0 (amu): set another.")


def loaded(model: Model | str | PathLike[str]) -> Model:
    """The model, read where its path is given."""
    if isinstance(model, Model):
        return model
    from macejax.checkpoint.load import load_model

    return load_model(model)
