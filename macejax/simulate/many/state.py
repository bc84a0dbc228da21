"""The state of many systems in one file, from which all of them go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.model.model import Model
from macejax.simulate.checks import whole
from macejax.simulate.many.drive import Engine, Job, Widths, list_of
from macejax.simulate.many.fields import Fields
from macejax.simulate.md import SimulationError
from macejax.simulate.signed import DAMAGE, MANY, FilePath, damaged, digest_of, read_signed, unwritten, write_signed

FORMAT = 2
OF_ENSEMBLE = ("timestep", "temperature", "relaxation_time", "pressure", "barostat_time", "compressibility", "seed")
OF_JOB = ("skin", "recorded", "listed_at", "stopped")
Outputs = Callable[[], dict[str, int]]


class StateFile(NamedTuple):
    """Where the state of a run goes, and when."""

    path: FilePath
    every: int  # steps of a system from one save to the next
    conditions: dict[str, Any]  # of the run: what must be the same when it goes on; JSON
    outputs: Outputs  # bytes that each output file has


def check_state(path: FilePath | None, save_every: int, restart: bool) -> None:
    """Refuse a restart from nowhere.

    Raises:
      ConfigError: in a sentence.
    """
    whole("save_every", save_every, 1)
    if restart and path is None:
        raise ConfigError("a restart needs the state file of the run that is to go on.")


class Saver:
    """Saves all jobs to a file where one of them has gone far enough; `drive` calls it after every chunk of steps."""

    def __init__(self, file: StateFile, jobs: Sequence[Job]) -> None:
        self._file = file
        self._saved = [_step(job) for job in jobs]

    def __call__(self, jobs: Sequence[Job], widths: Widths, over: bool) -> None:
        """Save if it is time to, or the run is over.

        Raises:
          SimulationError: the file could not be written.
        """
        now = [_step(job) for job in jobs]
        if not over and not any(step - before >= self._file.every for step, before in zip(now, self._saved, strict=True)):
            return
        of_jobs = {name: [getattr(job, name) for job in jobs] for name in OF_JOB}
        try:
            header = {
                "format": FORMAT,
                "conditions": self._file.conditions,
                "outputs": self._file.outputs(),
                "widths": widths._asdict(),
                "jobs": of_jobs,
            }
            write_signed(self._file.path, MANY, header, _arrays(jobs))
        except OSError as error:
            raise SimulationError(unwritten("the state", error, self._file.path)) from error
        self._saved = now


def resume(file: StateFile, jobs: Sequence[Job], engine: Engine, steps: int) -> Widths:
    """Put the jobs where they were when the file was written, a list of the same edges included, and return the widths of their batches.

    Raises:
      FileNotFoundError: there is none. DataError: it is damaged, or of another run. ConfigError: a job is beyond `steps`.
    """
    header, arrays = read_signed(file.path, MANY, FORMAT)
    _compare(header["conditions"], file.conditions, [job.name for job in jobs], file.path)
    ends = np.cumsum([job.size for job in jobs]).tolist()
    try:
        states = []
        for k, (job, end) in enumerate(zip(jobs, ends, strict=True)):
            nodes = {name: arrays[f"nodes.{name}"][end - job.size : end] for name in job.state.nodes}
            state = Fields(nodes, {name: arrays[f"globals.{name}"][k] for name in job.state.globals})
            listed_from = arrays["listed.positions"][end - job.size : end], arrays["listed.cell"][k]
            states.append((state, listed_from, {name: header["jobs"][name][k] for name in OF_JOB}))
        widths = Widths(**header["widths"])
    except DAMAGE as error:
        raise damaged(file.path, error) from error
    for job, (state, listed_from, about) in zip(jobs, states, strict=True):
        step = int(state.globals["step"])
        if step > steps:
            raise ConfigError(f"{file.path}: {job.name} is at step {step} already, beyond the {steps} steps that are asked for.")
        job.state, job.listed_from = state.update(total=np.int32(steps)), listed_from
        for name, value in about.items():
            setattr(job, name, value)
        if job.stopped == "" and step < steps:
            job.stopped = None  # it came to its end, which is no longer the end
        if job.stopped is None:
            job.listed = list_of(job, *listed_from, engine)
    return widths


def conditions_of(
    models: Sequence[Model], jobs: Sequence[Job], settings: Sequence[dict[str, Any]], of_run: dict[str, Any]
) -> dict[str, Any]:
    """What must be the same when a run goes on; JSON."""
    numbers = {name: [each[name] for each in settings] for name in OF_ENSEMBLE}
    return {"systems": [_digest(job) for job in jobs], "models": [digest_of(model) for model in models], "numbers": numbers, "run": of_run}


def _compare(saved: dict[str, Any], now: dict[str, Any], names: Sequence[str], path: FilePath) -> None:
    """Refuse to go on under other conditions, the first of which is named."""
    where = f"{path}: is of a run that cannot go on like this;"
    if len(saved["systems"]) != len(names):
        raise DataError(f"{where} it has {len(saved['systems'])} systems, not {len(names)}.")
    for k, name in enumerate(names):
        if saved["systems"][k] != now["systems"][k]:
            raise DataError(
                f"{where} {name} was another system, or started elsewhere: give the structures that it began with, in their order."
            )
        for option in OF_ENSEMBLE:
            was, is_now = (conditions["numbers"][option][k] for conditions in (saved, now))
            if was != is_now:
                raise DataError(f"{where} the {option} of {name} was {was}, not {is_now}.")
    for option, value in now["run"].items():
        if saved["run"].get(option) != value:
            raise DataError(f"{where} its {option} was {saved['run'].get(option)}, not {value}.")
    if saved["models"] != now["models"]:
        raise DataError(f"{where} it had another model.")


def _digest(job: Job) -> str:
    """Of what a system is, and of where it started."""
    structure = job.structure
    digest = hashlib.sha256(f"{job.lane} {structure.pbc} {structure.total_charge} {structure.total_spin}".encode())
    nodes = job.state.nodes
    for array in (structure.numbers, structure.positions, structure.cell, nodes["masses"], nodes["free"]):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name, value in sorted({**structure.inputs, "charges": structure.charges}.items()):
        digest.update(f"{name} {value if value is None else np.asarray(value).tolist()}".encode())
    return digest.hexdigest()


def _arrays(jobs: Sequence[Job]) -> dict[str, Any]:
    """Of all jobs together: a file of few large arrays is written and read in no time, however many they are."""
    first = jobs[0].state
    nodes = {f"nodes.{name}": np.concatenate([job.state.nodes[name] for job in jobs]) for name in first.nodes}
    of_systems = {f"globals.{name}": np.stack([job.state.globals[name] for job in jobs]) for name in first.globals}
    positions, cells = zip(*(job.listed_from for job in jobs), strict=True)
    return nodes | of_systems | {"listed.positions": np.concatenate(positions), "listed.cell": np.stack(cells)}


def _step(job: Job) -> int:
    return int(job.state.globals["step"])
