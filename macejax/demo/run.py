"""Files -> training -> model file -> held-out test -> molecular dynamics -> verdict, on the bundled ethanol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macejax.config import TrainConfig, load_config
from macejax.data.read import read, to_atoms
from macejax.data.structure import Structure

TIMESTEP = 0.25  # fs; with 0.5 the total energy wavers too much for its drift to be seen in 5 ps
TEMPERATURE = 300.0  # K, of the first velocities
EVERY = 20  # steps from one point of the energy curve to the next


class Result(NamedTuple):
    """What a demo run reached: on structures of a trajectory that training never saw, and in a simulation from one of them."""

    force_mae: float  # meV/Angstrom
    relative_force_mae: float  # % of the rms force component of the labels
    energy_mae: float  # meV/atom
    drift: float  # meV/atom/ps, slope of the total energy in NVE, float64

    def failures(self) -> list[str]:
        """A sentence for each limit that is not kept; a number that is not finite keeps none."""
        return [
            f"{name} is {value:.3g} {unit}, and should be below {limit:g} {unit}"
            for name, (limit, unit) in LIMITS.items()
            if not (value := abs(getattr(self, name))) < limit
        ]


LIMITS = {"force_mae": (30.0, "meV/Å"), "relative_force_mae": (3.0, "%"), "drift": (0.05, "meV/atom/ps")}


class Dynamics(NamedTuple):
    """Curves of a simulation, [T] each."""

    time: np.ndarray  # fs
    total_energy: np.ndarray  # eV
    temperature: np.ndarray  # K


def demo_config(directory: str | PathLike[str], overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """The bundled configuration, its data in this package, writing to `<directory>/ethanol`."""
    folder = files("macejax.demo")
    with (
        as_file(folder / "ethanol.yaml") as path,
        as_file(folder / "ethanol_train.xyz") as train,
        as_file(folder / "ethanol_test.xyz") as test,
    ):
        own = {"run.directory": str(directory), "data.train": [str(train)], "data.test": [str(test)]}
        return load_config(path, own | dict(overrides or {}))


def run_demo(config: TrainConfig, *, md_steps: int = 20000, say: Callable[[str], None] = print) -> Result:
    """Train by `config`, test the model file that comes out, simulate with it, and add the simulation to the report.

    Args:
      config: of the training run, with a test set.
      md_steps: steps of 0.25 fs of NVE in float64.
      say: takes one line at a time.

    Raises:
      ConfigError, DataError, NonFiniteError: from training; see `macejax.train.loop.train`. SimulationError: the run exploded.
    """
    from macejax.simulate import Calculator
    from macejax.simulate.md import drift
    from macejax.train.loop import train
    from macejax.train.report import add_section

    outcome = train(config)
    if outcome.model_path is None:
        raise SystemExit(f"the demo was stopped by {outcome.stopped_by}.")
    calculator = Calculator(outcome.model_path, dtype="float64")
    test = [structure for path in config.data.test or () for structure in read(path)]
    force_errors, force_labels, energy_errors = compare(calculator, test)
    say(f"NVE of {md_steps * TIMESTEP / 1000:g} ps in float64, from the first test structure at {TEMPERATURE:.0f} K ...")
    curves = simulate(calculator, test[0], md_steps, say)
    force_mae = float(1000 * np.mean(np.abs(force_errors)))
    result = Result(
        force_mae=force_mae,
        relative_force_mae=100 * force_mae / float(1000 * np.sqrt(np.mean(force_labels**2))),
        energy_mae=float(1000 * np.mean(np.abs(energy_errors))),
        drift=drift(curves.time, curves.total_energy, len(test[0].numbers)),
    )
    sentence = (
        f"{md_steps * TIMESTEP / 1000:g} ps of NVE in float64 with a timestep of {TIMESTEP} fs, mean temperature "
        f"{curves.temperature.mean():.0f} K: the total energy drifts by {result.drift:+.4f} meV/atom/ps."
    )
    report = Path(outcome.model_path).parent / "report.html"
    add_section(report, "Molecular dynamics", sentence, energy_figure(curves, len(test[0].numbers)))
    for line in summary(result, len(test)):
        say(line)
    say(f"report: {report}")
    return result


def compare(calculator: Any, structures: list[Structure]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of forces [components] (eV/Angstrom), their labels, and errors of energy per atom [structures] (eV)."""
    forces, labels, energies = [], [], []
    for structure in structures:
        atoms = to_atoms(structure)
        atoms.calc = calculator
        energies.append((atoms.get_potential_energy() - structure.energy) / len(atoms))
        forces.append((atoms.get_forces() - structure.forces).ravel())
        labels.append(np.ravel(structure.forces))
    return np.concatenate(forces), np.concatenate(labels), np.array(energies)


def simulate(calculator: Any, start: Structure, steps: int, say: Callable[[str], None]) -> Dynamics:
    """Run NVE from a structure and keep a point every `EVERY` steps; ten lines tell how far it is."""
    from macejax.simulate import Thermo, run_md

    points: list[tuple[float, float, float]] = []

    def observe(_: Any, state: Thermo) -> None:
        points.append((state.time, state.total_energy, state.temperature))
        if state.step and state.step % max(steps // 5, EVERY) == 0:
            say(f"  {state.time / 1000:.1f} ps  {state.temperature:4.0f} K  total energy {state.total_energy:.5f} eV")

    atoms = to_atoms(start)
    atoms.calc = calculator
    run_md(atoms, steps, timestep=TIMESTEP, temperature=TEMPERATURE, seed=0, every=EVERY, observe=observe)
    return Dynamics(*np.array(points).T)


def summary(result: Result, num_test: int) -> list[str]:
    """The verdict in lines."""
    lines = [f"\n{num_test} test structures of an independent trajectory at 500 K, and the simulation:"]
    for name, label in (
        ("force_mae", "MAE of forces"),
        ("relative_force_mae", "  of the rms force"),
        ("energy_mae", "MAE of energy"),
        ("drift", "NVE drift"),
    ):
        limit, unit = LIMITS.get(name, (None, "meV/atom"))
        value = getattr(result, name)
        verdict = "" if limit is None else f"  (limit {limit:g})  {'ok' if abs(value) < limit else 'TOO LARGE'}"
        lines.append(f"  {label:20s} {value:8.4g} {unit}{verdict}")
    return lines


def energy_figure(curves: Dynamics, num_atoms: int) -> Any:
    """matplotlib Figure: deviation of the total energy from its mean, and temperature, over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    picoseconds = curves.time / 1000
    left.plot(picoseconds, 1000 * (curves.total_energy - curves.total_energy.mean()) / num_atoms, lw=0.8, color="#1f6feb")
    left.set(title="Total energy", xlabel="time (ps)", ylabel="deviation from its mean (meV/atom)")
    right.plot(picoseconds, curves.temperature, lw=0.8, color="#e08a1e")
    right.set(title="Temperature", xlabel="time (ps)", ylabel="K")
    for axis in (left, right):
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
