"""The host's part: who is in the batch, fresh neighbour lists, results as they come. Those that finish make room for those that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from macejax.data.batch import Capacity, round_slots
from macejax.data.inputs import Embedding
from macejax.data.neighbors import most_neighbors
from macejax.data.species import species_index
from macejax.data.structure import DataError, Structure
from macejax.model.model import Model
from macejax.simulate.many.fields import HOT, JUMPED, NONFINITE, RUNNING, STALE, Fields, pack, unpack
from macejax.simulate.many.lists import Listed, find, gather_lists
from macejax.simulate.many.program import Program
from macejax.simulate.many.systems import params_of
from macejax.simulate.md import Stop

HEADROOM, GROWTH = 1.1, 1.25  # of neighbour slots: of the first batch, and when they were too few
SHRINK = 4  # a batch that has this much too much room becomes smaller, for the price of a compilation
SMALLEST = 64  # atoms; below, a smaller batch is not worth its compilation
WORN = 0.5  # part of the skin; a list worn more than this is renewed when others are anyway
WIDEST = 2  # times the cutoff; who needs a wider skin to take a single step has exploded


@dataclass
class Job:
    """A system on its way."""

    index: int  # place among the results
    name: str
    structure: Structure
    lane: int  # whose parameters it has
    state: Fields
    skin: float  # Angstrom
    first_skin: float  # Angstrom, before it had to be widened
    listed: Listed | None = None
    listed_at: int = -1  # step at which the list was made
    listed_from: tuple[np.ndarray, np.ndarray] | None = None  # positions and cell (Angstrom), likewise
    recorded: int = -1  # step of the last frame
    stopped: str | None = None  # None while it goes on; then "", or why it ended early

    @property
    def size(self) -> int:
        return len(self.structure.numbers)


class Engine(NamedTuple):
    """What is the same for all systems."""

    program: Program
    params: Any  # of the model, or with a leading axis of lanes where there are several
    elements: Sequence[int]
    embeddings: Sequence[Embedding]  # inputs that the model reads beside the structure
    cutoff: float  # Angstrom
    frames: int  # of a chunk
    block: int  # steps between them
    batch_atoms: int  # that run at a time, in each lane


class Summary(NamedTuple):
    """What a run cost."""

    compilations: int
    chunks: int
    lists: int  # that were made


class Widths(NamedTuple):
    """Slots of an atom in batches, which never become fewer."""

    slots: int = 0  # of all edges in the lists
    near: int = 0  # of those within the cutoff


OnFrame = Callable[[Job, Fields], None]
OnEnd = Callable[[Job, str], None]
Save = Callable[[Sequence[Job], Widths, bool], None]  # of all jobs, and whether this is the end


def engine_for(program: Program, models: Sequence[Model], dtype: str, chunk: tuple[int, int], batch_atoms: int) -> Engine:
    """The engine of models of one configuration; `chunk` is the number of frames, and of steps between them."""
    config = models[0].config
    return Engine(program, params_of(models, dtype), config.elements, config.joint_embedding, config.cutoff, *chunk, batch_atoms)


def drive(
    jobs: Sequence[Job],
    engine: Engine,
    on_frame: OnFrame,
    on_end: OnEnd,
    stop: Stop | None = None,
    save: Save | None = None,
    widths: Widths = Widths(),  # noqa: B008  (immutable)
) -> Summary:
    """Run all jobs to their end.

    Args:
      jobs: what to run, first come first served; of a run that goes on, some with a list, some at their end.
      engine: program and parameters.
      on_frame: called with every frame of a job, in order of steps.
      on_end: called once for a job, its state being the last, with "" or a sentence that says why it was stopped.
      stop: asked before every chunk; a reason ends all jobs where they are, the last state of each being a frame unless it is saved.
      save: called after every chunk, when the run is stopped, and at its end.
      widths: of batches, at least: those of a run that goes on.

    Raises:
      DataError: a structure is invalid, or has an element that the model does not know. Nothing has run then.
    """

    def end(job: Job, reason: str) -> None:
        job.stopped = reason
        on_end(job, reason)

    fresh = [job for job in jobs if job.listed is None and job.stopped is None]
    for job in fresh:
        _make_list(job, engine)
    program, before = engine.program, engine.program.compilations()
    shapes = _Shapes([[job for job in jobs if job.lane == lane] for lane in range(program.lanes)], engine, widths)
    for job in jobs:
        if job.stopped is not None:
            on_end(job, job.stopped)
    waiting = [deque(job for job in jobs if job.lane == lane and job.stopped is None) for lane in range(program.lanes)]
    running: list[list[Job]] = [[] for _ in waiting]
    chunks, lists_made = 0, len(fresh)
    table, seated = None, None
    while any(waiting) or any(running):
        if stop is not None and (reason := stop()):
            if save is not None:
                save(jobs, shapes.widths, True)
            for job in (job for members in (*running, *waiting) for job in members):
                if save is None:
                    _record_last(job, on_frame)
                on_end(job, f"step {int(job.state.globals['step'])}: ended by {reason}.")
            return Summary(program.compilations() - before, chunks, lists_made)
        for queue, members in zip(waiting, running, strict=True):
            _admit(queue, members, shapes.room)
        made = _refresh(running, engine, shapes.widths.near, end)
        lists_made += made
        if not any(running):
            continue
        capacity = shapes.fit(running)
        now = (capacity, [[job.index for job in members] for members in running])
        like = next(job for members in running for job in members)
        if made or now != seated:
            table, seated = jax.device_put(_lanes([gather_lists([job.listed for job in m], capacity, like.listed) for m in running])), now
        state = _lanes([pack([job.state for job in m], like.state, capacity.nodes, capacity.graphs) for m in running])
        arrays = engine.params, table, state, np.int32(engine.block)
        state, frames = jax.device_get(program.run(*arrays, frames=engine.frames, near_slots=shapes.widths.near))
        chunks += 1
        for lane, members in enumerate(running):
            running[lane] = _harvest(members, _lane(state, lane, engine), _lane(frames, lane, engine), on_frame, end)
        if save is not None:
            save(jobs, shapes.widths, False)
    if save is not None:
        save(jobs, shapes.widths, True)
    return Summary(program.compilations() - before, chunks, lists_made)


def _make_list(job: Job, engine: Engine) -> None:
    positions, cell = job.state.nodes["positions"], job.state.globals["cell"]
    job.listed = list_of(job, positions, cell, engine)
    job.listed_at, job.listed_from = int(job.state.globals["step"]), (positions, cell)


def list_of(job: Job, positions: np.ndarray, cell: np.ndarray, engine: Engine) -> Listed:
    """The edges of a job's system where it is at `positions` (Angstrom) in `cell`.

    Raises:
      DataError: as `find`.
    """
    structure = job.structure._replace(positions=positions, cell=cell)
    return find(structure, engine.elements, engine.cutoff, engine.cutoff + job.skin, engine.embeddings)


def _admit(queue: deque[Job], members: list[Job], room: int) -> None:
    """Take from the queue, in its order, who fits; a system larger than all the room runs alone."""
    while queue and (not members or sum(job.size for job in members) + queue[0].size <= room):
        members.append(queue.popleft())


def _refresh(running: list[list[Job]], engine: Engine, near_slots: int, on_end: OnEnd) -> int:
    """New lists for those that wait for one and, if there are such, for all that will soon. Returns how many.

    Who waits for more slots within the cutoff than there were, `near_slots`, may need no new list, and tries again.
    """
    everyone = [job for members in running for job in members]
    for job in everyone:
        if job.state.globals["status"] == STALE and job.state.globals["near"] > near_slots:
            job.state = job.state.update(status=np.int32(RUNNING))
    if not any(job.state.globals["status"] == STALE for job in everyone):
        return 0
    made = 0
    for job in everyone:
        stale = job.state.globals["status"] == STALE
        fresh = engine.cutoff / job.listed.reach
        if not stale and job.state.globals["used"] - fresh < WORN * (1 - fresh):
            continue
        if stale and job.listed_at == job.state.globals["step"]:
            job.skin *= 2  # the list was made for this very state, and does not last one step
        try:
            if job.skin > max(WIDEST * engine.cutoff, job.first_skin):
                raise DataError(f"an atom would move by more than {job.skin / 4:.2g} Angstrom in one step.")
            _make_list(job, engine)
        except DataError as error:
            running[job.lane].remove(job)
            on_end(job, f"step {int(job.state.globals['step'])}: {error}")
            continue
        job.state = job.state.update(status=np.int32(RUNNING))
        made += 1
    return made


def _harvest(members: list[Job], state: Fields, frames: Fields, on_frame: OnFrame, on_end: OnEnd) -> list[Job]:
    """Hand out what the chunk brought; returns those that go on."""
    staying = []
    sizes = [job.size for job in members]
    of_blocks = [unpack(jax.tree.map(lambda x, b=b: x[b], frames), sizes) for b in range(len(frames.globals["step"]))]
    for k, (job, after) in enumerate(zip(members, unpack(state, sizes), strict=True)):
        job.state = after
        status, step = after.globals["status"], int(after.globals["step"])
        for frame in (block[k] for block in of_blocks):
            at = int(frame.globals["step"])
            if not frame.globals["new"] and at > job.recorded and at % int(after.globals["every"]) == 0:
                job.recorded = at
                on_frame(job, frame)
        over = not after.globals["new"] and step >= after.globals["total"]
        if status in (RUNNING, STALE) and not over:
            staying.append(job)
            continue
        _record_last(job, on_frame)
        on_end(job, _reason(status, step))
    return staying


def _record_last(job: Job, on_frame: OnFrame) -> None:
    """The state that a job ends with, unless it has been a frame or was never evaluated."""
    step = int(job.state.globals["step"])
    if step > job.recorded and not job.state.globals["new"]:
        job.recorded = step
        on_frame(job, job.state)


def _reason(status: int, step: int) -> str:
    if status == NONFINITE:
        return f"step {step + 1}: the energy or a force is not finite. Do atoms overlap, or is the timestep too long?"
    if status == HOT:
        return f"step {step}: it exploded: the timestep may be too long, the start too far from equilibrium, or the model out of its depth."
    if status == JUMPED:
        return f"step {step}: the potential energy jumped, by more than 1e5 times the kinetic energy that ends a run: the model has a hole."
    return ""


class _Shapes:
    """Static shapes of batches: few, because each is compiled."""

    def __init__(self, lanes: Sequence[Sequence[Job]], engine: Engine, widths: Widths) -> None:
        sizes = [[job.size for job in jobs] for jobs in lanes]
        largest = max(size for lane in sizes for size in lane)
        self.room = min(max(sum(lane) for lane in sizes), max(engine.batch_atoms, largest))
        smallest = min(size for lane in sizes for size in lane)
        self.graphs = min(max(len(lane) for lane in sizes), max(self.room // smallest, 1))
        numbers = np.concatenate([job.structure.numbers for jobs in lanes for job in jobs])
        self.species = len(np.unique(species_index(numbers, engine.elements, "")))
        self.widths = widths

    def fit(self, running: Sequence[Sequence[Job]]) -> Capacity:
        """The smallest shape on the ladder that holds every lane."""
        jobs = [job for members in running for job in members]
        degree = max(job.listed.graph.max_degree for job in jobs)
        near = max(max(job.listed.near, int(job.state.globals["near"])) for job in jobs)
        if degree > self.widths.slots or near > self.widths.near or not all(self.widths):
            # Where there has to be a compilation, both get room for more.
            factor = GROWTH if any(self.widths) else HEADROOM
            most = max(most_neighbors(job.structure.pbc, job.size) for job in jobs)
            slots, near = (round_slots(min(each * factor, most)) for each in (degree, near))
            self.widths = Widths(max(slots, self.widths.slots), max(near, self.widths.near))
        nodes = max(sum(job.size for job in members) for members in running)
        graphs = max(len(members) for members in running)
        room, seats = self.room, self.graphs
        while room // SHRINK >= max(nodes, SMALLEST) and -(-seats // SHRINK) >= graphs:
            room, seats = room // SHRINK, -(-seats // SHRINK)
        return Capacity(room, self.widths.slots, seats + 1, self.species)


def _lanes(parts: Sequence[Any]) -> Any:
    """Batches of the lanes, stacked where there are several."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def _lane(batches: Fields, lane: int, engine: Engine) -> Fields:
    return batches if engine.program.lanes == 1 else jax.tree.map(lambda x: x[lane], batches)
