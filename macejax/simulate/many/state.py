"""The state of many systems in one file, from which all of them go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from macejax.config import ConfigError
from macejax.data.structure import DataError
from macejax.model.model import Model
from macejax.simulate.many.drive import Engine, Job, list_of
from macejax.simulate.many.fields import Fields
from macejax.simulate.md import SimulationError
from macejax.simulate.restart import compare_conditions
from macejax.simulate.signed import DAMAGE, FilePath, damaged, read_signed, write_signed

KIND, FORMAT = "macejax_many", 1
Outputs = Callable[[], dict[str, int]]


class StateFile(NamedTuple):
    """Where the state of a run goes, and when."""

    path: FilePath
    every: int  # steps of a system from one save to the next
    conditions: dict[str, Any]  # of the run: what must be the same when it goes on
    outputs: Outputs  # bytes that each output file has


def check_state(path: FilePath | None, save_every: int, restart: bool) -> None:
    """Refuse a restart from nowhere.

    Raises:
      ConfigError: in a sentence.
    """
    if save_every < 1:
        raise ConfigError(f"save_every must be 1 or more, not {save_every}.")
    if restart and path is None:
        raise ConfigError("a restart needs the state file of the run that is to go on.")


class Saver:
    """Saves all jobs to a file where one of them has gone far enough; `drive` calls it after every chunk of steps."""

    def __init__(self, file: StateFile, jobs: Sequence[Job]) -> None:
        self._file = file
        self._saved = [_step(job) for job in jobs]

    def __call__(self, jobs: Sequence[Job], slots: int, over: bool) -> None:
        """Save if it is time to, or the run is over.

        Raises:
          SimulationError: the file could not be written.
        """
        now = [_step(job) for job in jobs]
        if not over and not any(step - before >= self._file.every for step, before in zip(now, self._saved, strict=True)):
            return
        of_jobs = [{name: getattr(job, name) for name in ("skin", "recorded", "listed_at", "stopped")} for job in jobs]
        try:
            header = {
                "format": FORMAT,
                "conditions": self._file.conditions,
                "outputs": self._file.outputs(),
                "slots": slots,
                "jobs": of_jobs,
            }
            write_signed(self._file.path, KIND, header, _arrays(jobs))
        except OSError as error:
            path = self._file.path
            raise SimulationError(
                f"the state could not be written, and the run ends here: {error}. {path} holds it as it was saved last, if it was."
            ) from error
        self._saved = now


def resume(file: StateFile, jobs: Sequence[Job], engine: Engine, steps: int) -> int:
    """Put the jobs where they were when the file was written, a list of the same edges included, and return the slots of their batches.

    Raises:
      FileNotFoundError: there is none. DataError: it is damaged, or of another run. ConfigError: a job is beyond `steps`.
    """
    header, arrays = read_signed(file.path, KIND, FORMAT)
    compare_conditions(header.get("conditions", {}), file.conditions, file.path)
    try:
        for k, (job, about) in enumerate(zip(jobs, header["jobs"], strict=True)):
            nodes = {name: arrays[f"{k}.nodes.{name}"] for name in job.state.nodes}
            of_system = {name: arrays[f"{k}.globals.{name}"][()] for name in job.state.globals}
            step = int(of_system["step"])
            if step > steps:
                raise ConfigError(f"{file.path}: {job.name} is at step {step} already, beyond the {steps} steps that are asked for.")
            job.state = Fields(nodes, of_system).update(total=np.int32(steps))
            job.skin, job.recorded, job.listed_at, job.stopped = (about[x] for x in ("skin", "recorded", "listed_at", "stopped"))
            if job.stopped == "" and step < steps:
                job.stopped = None  # it came to its end, which is no longer the end
            job.listed_from = arrays[f"{k}.listed.positions"], arrays[f"{k}.listed.cell"]
            job.listed = list_of(job, *job.listed_from, engine)
        return int(header["slots"])
    except DAMAGE as error:
        if isinstance(error, ConfigError | DataError):
            raise
        raise damaged(file.path, error) from error


def load_many_outputs(path: FilePath) -> dict[str, int]:
    """How many bytes each output file had when the state was saved.

    Raises:
      FileNotFoundError: there is none. DataError: it is damaged, or of another kind.
    """
    return read_signed(path, KIND, FORMAT)[0]["outputs"]


def conditions_of(models: Sequence[Model], jobs: Sequence[Job], **options: Any) -> dict[str, Any]:
    """What must be the same when a run goes on; JSON."""
    digests = []
    for model in models:
        digest = hashlib.sha256(model.config.model_dump_json().encode())
        for leaf in jax.tree.leaves(model.params):
            digest.update(np.asarray(leaf).tobytes())
        digests.append(digest.hexdigest())
    return {"systems": [_system(job) for job in jobs], "models": digests, **options}


def _system(job: Job) -> str:
    """Digest of what stays as it is: elements, masses, boundaries, what is held, inputs, and the numbers of the ensemble."""
    structure = job.structure
    digest = hashlib.sha256(f"{job.lane} {structure.pbc} {structure.total_charge} {structure.total_spin}".encode())
    for name in ("masses", "free"):
        digest.update(np.asarray(job.state.nodes[name]).tobytes())
    digest.update(np.asarray(structure.numbers, np.int64).tobytes())
    for name, value in sorted({**structure.inputs, "charges": structure.charges}.items()):
        digest.update(f"{name} {value if value is None else np.asarray(value).tolist()}".encode())
    constant = ("timestep", "relaxation_time", "kT", "pressure", "barostat_time", "compressibility", "seed")
    digest.update(str([float(job.state.globals[name]) for name in constant]).encode())
    return digest.hexdigest()


def _arrays(jobs: Sequence[Job]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for k, job in enumerate(jobs):
        arrays |= {f"{k}.nodes.{name}": value for name, value in job.state.nodes.items()}
        arrays |= {f"{k}.globals.{name}": value for name, value in job.state.globals.items()}
        arrays[f"{k}.listed.positions"], arrays[f"{k}.listed.cell"] = job.listed_from
    return arrays


def _step(job: Job) -> int:
    return int(job.state.globals["step"])
