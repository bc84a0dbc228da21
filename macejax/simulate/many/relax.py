"""Relaxation of many systems at once: who has converged makes room for who waits."""

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
from macejax.simulate.checks import above_zero, finite
from macejax.simulate.constraints import free_of
from macejax.simulate.inputs import structure_of
from macejax.simulate.many.drive import Job, OnEnd, OnFrame, Summary, drive, engine_for
from macejax.simulate.many.fields import DONE, Fields, start
from macejax.simulate.many.minimize import Optimizer, memory, rule
from macejax.simulate.many.program import Program, Recorded, make_advance, make_program
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
from macejax.simulate.policy import device_policy
from macejax.simulate.relax import Relaxation

PROGRAMS = 8  # that are kept
CHUNK = 10  # steps from one look of the host to the next
NUMBERS = ("energy", "largest_force", "largest_stress", "status")
WHOLE = Recorded(("positions", "forces"), (*NUMBERS, "cell", "strain_derivative", "has_volume"))
Many: TypeAlias = float | Sequence[float]


class Relaxed(NamedTuple):
    """One system's relaxation."""

    name: str
    atoms: Atoms  # where it ended, with energy, forces and stress
    end: Relaxation
    path: list[Relaxation]  # of every step, the start included
    stopped: str  # why it did not converge, in a sentence; "" where it did


class Relaxations(NamedTuple):
    """All of them, in the order of the systems, and what they cost."""

    results: list[Relaxed]
    summary: Summary


def relax_many(
    model: Given | Sequence[Given],
    systems: Sequence[Atoms],
    *,
    fmax: Many = 0.01,
    steps: int = 500,
    optimizer: Optimizer = "LBFGS",
    cell: bool | Sequence[bool] = False,
    pressure: Many = 0.0,
    smax: float | None | Sequence[float | None] = None,
    observe: Callable[[int, Atoms, Relaxation], None] | None = None,
    on_result: Callable[[int, Relaxed], None] | None = None,
    names: Sequence[str] | None = None,
    dtype: str | Precision = "float64",
    skin: float = 0.5,
    batch_atoms: int = 2048,
    site_energy: SiteEnergy | None = None,
    head: str | None = None,
) -> Relaxations:
    """Move every system downhill until its forces are small, or its steps used up. The systems given are not changed.

    Steps are those of ASE's FIRE and LBFGS, and what a system does depends on nothing else in the batch. As systems converge, waiting ones
    take their places. Atoms that FixAtoms holds, and components that FixCartesian holds, stay where they are.

    Args:
      model: one model or path of a model file, or one for each system; different ones share a configuration.
      systems: unlike structures.
      fmax: largest force that is left, eV/Angstrom; of a free cell, its generalised forces included. One value for all or one for each.
      steps: most steps for each.
      optimizer: LBFGS, which needs fewer steps, or FIRE, which stands rougher starts.
      cell: relax the lattice vectors too, in the log of the deformation (as ASE's FrechetCellFilter); for all or for each.
      pressure: GPa, on the free cell; for all or for each.
      smax: besides, the largest component of stress + pressure that is left in a free cell, GPa; for all or for each.
      observe: called with the place of the system, its atoms and how far it is, after each step and before the first.
      on_result: called with the place of a system and its result, as soon as it is there.
      names: what sentences call the systems; by default their place and formula.
      dtype: of the model: float64, float32, on a GPU tf32x3 or tf32, there and on a TPU bf16, or a `macejax.Precision`;
        positions, steps and sums over atoms are float64 in any case. float32 reaches an fmax of about 0.001.
      skin: of the neighbour lists, Angstrom; changes speed, not results.
      batch_atoms: atoms that run at a time, for each model; the other systems wait for a place.
      site_energy: takes the place of the model's own function.
      head: which head to use, of a model with several.

    Returns:
      A Relaxed for each system, in their order. Those that did not converge say so in `stopped`.

    Raises:
      ConfigError: options that are wrong, or would do nothing. DataError: a structure that cannot be used, named.
    """
    images = copies_of(systems)
    check_run(steps, 1, skin, batch_atoms)
    policy = device_policy(dtype, site_energy)
    if optimizer not in ("FIRE", "LBFGS"):
        raise ConfigError(f"of many systems at once the optimizer is FIRE or LBFGS, not {optimizer!r}.")
    models, lanes = lanes_of(model, len(images), head)
    config = models[0].config
    settings = settings_of({"fmax": fmax, "cell": cell, "pressure": pressure, "smax": smax}, len(images))
    plan = _Plan(optimizer, steps, skin)
    jobs = [_job(config, plan, *each) for each in zip(range(len(images)), names_of(images, names), images, lanes, settings, strict=True)]
    results, on_frame, on_end = _collector(config, images, jobs, observe, on_result)
    with jax.enable_x64(True):
        cells = any(each["cell"] for each in settings)
        program = _program(config, site_energy, optimizer, cells, policy.parameters, policy.products, observe is not None, len(models))
        summary = drive(jobs, engine_for(program, models, policy.parameters, (CHUNK, 1), batch_atoms), on_frame, on_end)
    return Relaxations(results, summary)


class _Plan(NamedTuple):
    """What all systems have in common."""

    optimizer: Optimizer
    steps: int
    skin: float


def _collector(
    config: ModelConfig,
    images: Sequence[Atoms],
    jobs: Sequence[Job],
    observe: Callable[[int, Atoms, Relaxation], None] | None,
    on_result: Callable[[int, Relaxed], None] | None,
) -> tuple[list[Any], OnFrame, OnEnd]:
    """A list that fills with the result of each system, and the two functions that fill it as `drive` calls them."""
    e0s = [e0_of(job.structure, config) for job in jobs]
    paths: list[list[Relaxation]] = [[] for _ in images]
    results: list[Any] = [None] * len(images)

    def on_frame(job: Job, frame: Fields) -> None:
        k = job.index
        of_system = frame.globals
        converged = bool(of_system["status"] == DONE)
        state = Relaxation(int(of_system["step"]), float(of_system["energy"]) + e0s[k], float(of_system["largest_force"]), converged)
        paths[k].append(state)
        if observe is not None:
            observe(k, atoms_of(images[k], frame, e0s[k]), state)

    def on_end(job: Job, stopped: str) -> None:
        k = job.index
        stopped = stopped or _unfinished(job)
        end = paths[k][-1] if paths[k] else Relaxation(0, np.nan, np.inf, False)
        sentence = f"{job.name}: {stopped}" if stopped else ""
        results[k] = Relaxed(job.name, atoms_of(images[k], job.state, e0s[k]), end, paths[k], sentence)
        if on_result is not None:
            on_result(k, results[k])

    return results, on_frame, on_end


@functools.lru_cache(maxsize=PROGRAMS)
def _program(
    config: ModelConfig, own: SiteEnergy | None, optimizer: Optimizer, cells: bool, dtype: str, products: str, whole: bool, lanes: int
) -> Program:
    """Kept from call to call: the next relaxation of the like compiles nothing."""
    recorded = WHOLE if whole else Recorded((), NUMBERS)
    function = site_energy_of(config, own, products)
    return make_program(make_advance(function, rule(optimizer, cells), config.cutoff, np.dtype(dtype), recorded), lanes)


def _unfinished(job: Job) -> str:
    """What to say of a system that has used up its steps."""
    of_system = job.state.globals
    if of_system["status"] == DONE:
        return ""
    stress = f", the largest stress {of_system['largest_stress'] / units.GPa:.3g} GPa" if of_system["free_cell"] else ""
    return f"not converged after {int(of_system['step'])} steps: the largest force is {of_system['largest_force']:.3g} eV/Å{stress}."


def _job(config: ModelConfig, plan: _Plan, k: int, name: str, atoms: Atoms, lane: int, settings: dict[str, Any]) -> Job:
    structure, free = structure_of(atoms, config, source=name), free_of(atoms, name)
    largest_stress = np.inf if settings["smax"] is None else settings["smax"]
    above_zero(f"{name}: fmax", settings["fmax"], "eV/Angstrom")
    if settings["smax"] is not None:
        above_zero(f"{name}: smax", settings["smax"], "GPa")
    finite(f"{name}: pressure", settings["pressure"], "GPa")
    if settings["cell"] and not structure.pbc.all():
        raise ConfigError(f"{name}: only the cell of a structure that is periodic in all three directions can be relaxed.")
    if settings["cell"] and (free.any(axis=1) != free.all(axis=1)).any():
        raise ConfigError(f"{name}: an atom held in some directions only cannot move with a free cell: hold it in all, or fix the cell.")
    for option in ("pressure", "smax"):
        if settings[option] and not settings["cell"]:
            raise ConfigError(f"{name}: {option} is about a free cell only: set cell=True.")
    nodes, of_system = memory(plan.optimizer, len(atoms))
    of_system |= {
        "log_deformation": np.zeros((3, 3)),
        "cell_downhill": np.zeros((3, 3)),
        "first_cell": structure.cell,
        "free_cell": np.bool_(settings["cell"]),
        "pressure": np.float64(settings["pressure"] * units.GPa),
        "fmax": np.float64(settings["fmax"]),
        "smax": np.float64(largest_stress * units.GPa),
        "largest_force": np.float64(np.inf),
        "largest_stress": np.float64(np.inf),
    }
    nodes |= {"undeformed": structure.positions, "downhill": np.zeros_like(structure.positions)}
    state = start(structure.positions, structure.cell, free, volume(structure.cell) > 0, plan.steps, 1, nodes, of_system)
    return Job(k, name, structure, lane, state, plan.skin, plan.skin)
