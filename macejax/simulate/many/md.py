"""Molecular dynamics of many systems at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from ase import Atoms, units

from macejax.config import ConfigError, ModelConfig, Precision
from macejax.data.structure import volume
from macejax.potential import SiteEnergy
from macejax.simulate.checks import MANY_SEEDS, check_conditions, check_hottest, check_masses, whole
from macejax.simulate.constraints import free_of
from macejax.simulate.ensemble import BAROSTAT_TIME, COMPRESSIBILITY, RELAXATION_TIME
from macejax.simulate.inputs import structure_of
from macejax.simulate.many.drive import Job, OnEnd, OnFrame, Summary, Widths, drive, engine_for
from macejax.simulate.many.dynamics import Ensemble, rule
from macejax.simulate.many.fields import Fields, start
from macejax.simulate.many.program import Program, Recorded, make_advance, make_program
from macejax.simulate.many.state import Outputs, Saver, StateFile, check_state, conditions_of, resume
from macejax.simulate.many.systems import (
    Given,
    atoms_of,
    check_run,
    copies_of,
    e0_of,
    lanes_of,
    names_of,
    settings_of,
    site_energy_of,
)
from macejax.simulate.md import ABSURD, COLDEST_REFERENCE, SimulationError, Stop, Thermo, thermalize, thermo
from macejax.simulate.policy import device_policy
from macejax.simulate.signed import FilePath, unwritten

PROGRAMS = 8  # that are kept
CHUNK = 64  # steps from one look of the host to the next, at most
RECORDED = Recorded(("positions", "momenta", "forces"), ("cell", "energy", "strain_derivative", "has_volume"))
Many: TypeAlias = float | Sequence[float]


class Run(NamedTuple):
    """One system's run."""

    name: str
    atoms: Atoms  # where it ended, with momenta, energy, forces and stress
    thermo: list[Thermo]  # of every frame of this call
    frames: list[Atoms]  # likewise; empty where they were not to be kept
    stopped: str  # why it ended early, in a sentence; "" where it did not


class Runs(NamedTuple):
    """All of them, in the order of the systems, and what they cost."""

    runs: list[Run]
    summary: Summary


def run_many(
    model: Given | Sequence[Given],
    systems: Sequence[Atoms],
    steps: int,
    *,
    ensemble: Ensemble = "nve",
    timestep: Many = 1.0,
    temperature: Many | None = None,
    pressure: Many | None = None,
    relaxation_time: float | None = None,
    barostat_time: float | None = None,
    compressibility: float | None = None,
    free_shape: bool = False,
    seed: int | Sequence[int] = 0,
    every: int = 10,
    observe: Callable[[int, Atoms, Thermo], None] | None = None,
    stop: Stop | None = None,
    state_file: FilePath | None = None,
    save_every: int = 1000,
    restart: bool = False,
    outputs: Outputs = dict,
    keep_frames: bool = True,
    names: Sequence[str] | None = None,
    max_temperature: float | None = None,
    dtype: str | Precision = "float64",
    skin: float = 0.5,
    batch_atoms: int = 2048,
    site_energy: SiteEnergy | None = None,
    head: str | None = None,
) -> Runs:
    """Run every system for `steps` steps, all in one compiled program. The systems given are not changed.

    What a system does depends on nothing else in the batch. One that explodes is stopped with a sentence in its `stopped`; the others go
    on. Atoms and components that FixAtoms and FixCartesian hold stay where they are. Equations: `macejax.simulate.many.dynamics`.

    Args:
      model: one model or path of a model file, or one for each system (members of a committee); different ones share a configuration.
      systems: unlike structures, replicas, or both. Atoms at rest are given velocities of `temperature`.
      steps: number of steps.
      ensemble: nve: velocity Verlet; nvt: Langevin (BAOAB); npt: with stochastic cell rescaling.
      timestep: fs; this one and those below that may be sequences: one value for all or one for each system.
      temperature: K; needed for nvt and npt.
      pressure: GPa, npt only; None is 0.
      relaxation_time: of the thermostat, fs, nvt and npt only; None is 100.
      barostat_time: of the barostat, fs, npt only; None is 1000.
      compressibility: 1/GPa, npt only; None is 0.1. A wrong one makes the barostat slower or faster, and changes no average.
      free_shape: npt only: the whole cell moves, not just the volume.
      seed: of velocities, thermostat and barostat; of one number, system k has `seed + k`.
      every: steps from frame to frame; step 0 and the last one always are frames.
      observe: called with the place of the system, its atoms and its Thermo at every frame, in order of steps for each system.
      stop: asked before every chunk of steps; a reason ends all systems where they are, and is in their `stopped`. They have a last frame
        where there is no `state_file`.
      state_file: where the state of all is saved, whenever one has gone `save_every` steps, and at the end.
      restart: go on from `state_file`: on one machine, a run that was stopped and gone on with has the bits of one that was not. Conditions
        must be as they were, apart from `steps`. Frames of before are not shown again, and not among the results.
      outputs: what the output files are and how many bytes each has, to be kept in the state file (`record_each`).
      keep_frames: whether `frames` holds them too.
      names: what sentences call the systems; by default their place and formula.
      max_temperature: K; hotter systems are stopped, and so are those whose potential energy changes in one step by more than 1e5 times the
        kinetic energy that they would have. By default ten times the target, or the start; of a run that goes on, what it was.
      dtype: of the model: float64, float32, on a GPU tf32x3 or tf32, there and on a TPU bf16, or a `macejax.Precision`;
        positions, momenta and sums over atoms are float64 in any case.
      skin: of the neighbour lists, Angstrom; changes speed, not results.
      batch_atoms: atoms that run at a time, for each model; the other systems wait for a place.
      site_energy: takes the place of the model's own function.
      head: which head to use, of a model with several.

    Returns:
      A Run for each system, in their order.

    Raises:
      ConfigError: options that are wrong, or that would do nothing in this ensemble.
      DataError: a structure that cannot be used, or a mass that is not above 0, named; a state file that is damaged or of another run.
      SimulationError: an output or the state file could not be written.
    """
    images = copies_of(systems)
    options = {
        "timestep": timestep,
        "temperature": temperature,
        "pressure": 0.0 if pressure is None else pressure,
        "relaxation_time": RELAXATION_TIME if relaxation_time is None else relaxation_time,
        "barostat_time": BAROSTAT_TIME if barostat_time is None else barostat_time,
        "compressibility": COMPRESSIBILITY if compressibility is None else compressibility,
        "max_temperature": max_temperature,
        "seed": [whole("seed", seed, 0, MANY_SEEDS) + k for k in range(len(images))] if isinstance(seed, int | np.integer) else seed,
    }
    of_npt = {"pressure": pressure, "barostat_time": barostat_time, "compressibility": compressibility, "free_shape": free_shape or None}
    _check_ensemble(ensemble, of_npt, relaxation_time)
    check_run(steps, every, skin, batch_atoms)
    check_state(state_file, save_every, restart)
    policy = device_policy(dtype, site_energy)
    models, lanes = lanes_of(model, len(images), head)
    config = models[0].config
    settings = settings_of(options, len(images))
    plan = _Plan(ensemble, int(steps), int(every), float(skin))  # as JSON has them, of whichever type they were
    jobs = [_job(config, plan, *each) for each in zip(range(len(images)), names_of(images, names), images, lanes, settings, strict=True)]
    runs, on_frame, on_end = _collector(config, images, jobs, settings, observe, keep_frames, state_file)
    with jax.enable_x64(True):
        program = _program(config, site_energy, ensemble, free_shape, policy.parameters, policy.products, len(models))
        chunk = (max(CHUNK // every, 1), min(every, CHUNK))
        engine = engine_for(program, models, policy.parameters, chunk, batch_atoms)
        of_run: dict[str, Any] = {"ensemble": ensemble, "free_shape": bool(free_shape), "dtype": policy.compute or policy.parameters}
        of_run |= {"every": plan.every, "skin": plan.skin, "batch_atoms": int(batch_atoms)}
        file = None if state_file is None else StateFile(state_file, save_every, conditions_of(models, jobs, settings, of_run), outputs)
        widths = Widths()
        if restart:
            widths = resume(file, jobs, engine, plan.steps)
            _limit(jobs, settings)
        save = None if file is None else Saver(file, jobs)
        summary = drive(jobs, engine, on_frame, on_end, stop, save, widths)
    return Runs(runs, summary)


class _Plan(NamedTuple):
    """What all systems have in common."""

    ensemble: Ensemble
    steps: int
    every: int
    skin: float


def _collector(
    config: ModelConfig,
    images: Sequence[Atoms],
    jobs: Sequence[Job],
    settings: Sequence[dict[str, Any]],
    observe: Callable[[int, Atoms, Thermo], None] | None,
    keep_frames: bool,
    state_file: FilePath | None,
) -> tuple[list[Any], OnFrame, OnEnd]:
    """A list that fills with the Run of each system, and the two functions that fill it as `drive` calls them."""
    e0s = [e0_of(job.structure, config) for job in jobs]
    runs: list[Any] = [None] * len(images)
    thermos: list[list[Thermo]] = [[] for _ in images]
    frames: list[list[Atoms]] = [[] for _ in images]

    def on_frame(job: Job, frame: Fields) -> None:
        k = job.index
        atoms = atoms_of(images[k], frame, e0s[k])
        thermos[k].append(thermo(atoms, int(frame.globals["step"]), settings[k]["timestep"]))
        if keep_frames:
            frames[k].append(atoms)
        if observe is not None:
            try:
                observe(k, atoms, thermos[k][-1])
            except FileExistsError:  # of an earlier run: says itself what to do
                raise
            except OSError as error:
                what = f"{job.name}, step {thermos[k][-1].step}: an output"
                raise SimulationError(unwritten(what, error, state_file)) from error

    def on_end(job: Job, stopped: str) -> None:
        k = job.index
        runs[k] = Run(job.name, atoms_of(images[k], job.state, e0s[k]), thermos[k], frames[k], f"{job.name}: {stopped}" if stopped else "")

    return runs, on_frame, on_end


@functools.lru_cache(maxsize=PROGRAMS)
def _program(
    config: ModelConfig, own: SiteEnergy | None, ensemble: Ensemble, free_shape: bool, dtype: str, products: str, lanes: int
) -> Program:
    """Kept from call to call: the next run of the like compiles nothing."""
    function = site_energy_of(config, own, products)
    advance = make_advance(function, rule(ensemble, free_shape), config.cutoff, np.dtype(dtype), RECORDED)
    return make_program(advance, lanes)


def _job(config: ModelConfig, plan: _Plan, k: int, name: str, atoms: Atoms, lane: int, settings: dict[str, Any]) -> Job:
    structure, free = structure_of(atoms, config, source=name), free_of(atoms, name)
    target = settings["temperature"]
    _check_system(name, atoms, plan.ensemble, free, settings)
    if target is not None and not np.any(atoms.get_momenta()):
        thermalize(atoms, target, np.random.default_rng(settings["seed"]))
    masses, freedom = atoms.get_masses(), max(int(free.sum()), 1)
    current = 2 * atoms.get_kinetic_energy() / (freedom * units.kB)
    hottest = settings["max_temperature"]
    hottest = ABSURD * max(target or 0.0, current, COLDEST_REFERENCE) if hottest is None else hottest
    numbers = {
        "timestep": settings["timestep"] * units.fs,
        "relaxation_time": settings["relaxation_time"] * units.fs,
        "kT": units.kB * (target or 0.0),
        "hottest": units.kB * hottest,
        "freedom": freedom,
        "pressure": settings["pressure"] * units.GPa,
        "barostat_time": settings["barostat_time"] * units.fs,
        "compressibility": settings["compressibility"] / units.GPa,
    }
    nodes = {"momenta": np.where(free, atoms.get_momenta(), 0), "masses": masses, "order": np.arange(len(atoms), dtype=np.int32)}
    of_system = {option: np.float64(value) for option, value in numbers.items()} | {"seed": np.uint32(settings["seed"])}
    has_volume = volume(structure.cell) > 0
    state = start(structure.positions, structure.cell, free, has_volume, plan.steps, plan.every, nodes, of_system)
    return Job(k, name, structure, lane, state, plan.skin, plan.skin)


def _limit(jobs: Sequence[Job], settings: Sequence[dict[str, Any]]) -> None:
    """Of a run that goes on, where it is to be stopped from now on."""
    for job, each in zip(jobs, settings, strict=True):
        if each["max_temperature"] is not None:
            job.state = job.state.update(hottest=np.float64(units.kB * each["max_temperature"]))


def _check_ensemble(ensemble: str, of_npt: dict[str, Any], relaxation_time: Any) -> None:
    if ensemble not in ("nve", "nvt", "npt"):
        raise ConfigError(f"ensemble must be nve, nvt or npt, not {ensemble!r}.")
    if ensemble != "npt" and (given := [name for name, value in of_npt.items() if value is not None]):
        raise ConfigError(f"{given[0]} is for npt; {ensemble} would ignore it.")
    if ensemble == "nve" and relaxation_time is not None:
        raise ConfigError("relaxation_time is for nvt and npt; nve would ignore it.")


def _check_system(name: str, atoms: Atoms, ensemble: str, free: np.ndarray, settings: dict[str, Any]) -> None:
    check_conditions(settings, f"{name}: ")
    whole(f"{name}: seed", settings["seed"], 0, MANY_SEEDS)
    check_hottest(settings["max_temperature"], f"{name}: ")
    check_masses(atoms, name)
    if ensemble != "nve" and not settings["temperature"]:
        raise ConfigError(f"{name}: {ensemble} needs a temperature above 0 K, not {settings['temperature']}.")
    if not free.any():
        raise ConfigError(f"{name}: all atoms are held: nothing would move.")
    if ensemble == "npt" and not atoms.pbc.all():
        raise ConfigError(f"{name}: npt needs a structure that is periodic in all three directions.")
    if ensemble == "npt" and not free.all():
        raise ConfigError(f"{name}: npt moves every atom with the cell: take the constraints away, or use nvt.")
