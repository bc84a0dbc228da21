"""Molecular dynamics that stays on the device: steps, neighbour list and watch in one compiled program, run in chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from macejax.config import ConfigError, ModelConfig, Precision
from macejax.data.structure import volume
from macejax.model.heads import select_head
from macejax.model.model import Model, build
from macejax.potential import SiteEnergy
from macejax.simulate.checks import SEEDS, check_hottest, check_masses, check_skin, loaded, whole
from macejax.simulate.constraints import free_of
from macejax.simulate.ensemble import Ensemble, check, keeps_momentum, middle_of, settings_of
from macejax.simulate.inputs import structure_of
from macejax.simulate.integrators import CHAIN, State
from macejax.simulate.list_shape import allocate, shape_for
from macejax.simulate.md import Observer, SimulationError, Stop, Thermo, hottest, thermalize, thermo
from macejax.simulate.policy import device_policy
from macejax.simulate.program import Program, first_evaluation, run_chunk
from macejax.simulate.restart import Saved, compare, load_state, save_state
from macejax.simulate.row_list import RowList
from macejax.simulate.signed import FilePath, digest_of, unwritten
from macejax.simulate.system import Evaluation, Species, check_model, e0s_of, species_of, with_inputs

REST = 1e-12  # of momenta: what rounding leaves of those of atoms that move as a whole
CHUNK = 100  # steps in one call of the program, and at most what is done again where the list must grow


class Outcome(NamedTuple):
    """How a run ended, and what its neighbour list did."""

    thermo: Thermo  # of the last step
    num_rebuilds: int  # of the list, on the device
    num_replays: int  # chunks done again up to the step at which the list overflowed, from where it is larger
    stopped: str = ""  # the reason that `stop` gave; "" where the run came to its end


class _Plan(NamedTuple):
    """When to stop for what, and who is told."""

    steps: int
    every: int
    save_every: int
    chunk: int
    observe: Observer | None
    report: Callable[[Thermo], None] | None
    stop: Stop | None
    state_file: FilePath | None
    outputs: Callable[[], dict[str, int]]
    timestep: float  # fs
    restart: bool

    def next_stop(self, step: int) -> int:
        return min(self.steps, *(step - step % n + n for n in (self.every, self.save_every, self.chunk)))


def run_on_device(
    model: Model | str | PathLike[str],
    atoms: Atoms,
    steps: int,
    ensemble: Ensemble = Ensemble(),  # noqa: B008  (immutable)
    *,
    dtype: str | Precision = "float64",
    skin: float = 0.5,
    seed: int = 0,
    every: int = 10,
    observe: Observer | None = None,
    report: Callable[[Thermo], None] | None = None,
    stop: Stop | None = None,
    max_temperature: float | None = None,
    state_file: FilePath | None = None,
    save_every: int = 1000,
    restart: bool = False,
    outputs: Callable[[], dict[str, int]] = dict,
    chunk: int = CHUNK,
    site_energy: SiteEnergy | None = None,
    head: str | None = None,
) -> Outcome:
    """Run a simulation to step `steps`, and leave `atoms` where they then are, with energy, forces and stress.

    Neither list nor forces come to the host between two observations. The list is renewed within the program, in the step in which an atom
    has gone too far and before its forces are computed. Edges that no longer fit raise a flag, and the chunk is done again up to the step
    before, from where arrays are larger: a result with missing neighbours is never seen.

    Positions and momenta are float64 always; `dtype` is the model's.

    Args:
      model: potential, or the path of a model file. What it embeds beside atoms and cell is looked for where the ASE calculator looks:
        `charge` and `spin` in `atoms.info`, other inputs by their names there or in `atoms.arrays`. Of a model that has dipoles too,
        energies alone are used.
      atoms: where to start. Atoms at rest are given velocities of the ensemble's temperature, without motion of the whole; csvr and
        nose_hoover, which would keep that motion, take it away from others too. What FixAtoms and FixCartesian hold stays where it is.
      steps: number of the last step; a restart counts from the first run's beginning.
      ensemble: what is kept constant.
      dtype: precision of the model: float64, float32, on a GPU tf32x3 or tf32, there and on a TPU bf16, or a `macejax.Precision`.
      skin: the neighbour list reaches this much (Angstrom) beyond the cutoff. Changes speed, not results.
      seed: of initial velocities and of the thermostat.
      every: steps from one call of `observe` to the next; step 0 and the last one are always shown. Looking changes nothing.
      observe: called with the atoms and the Thermo of the step.
      report: called with the Thermo of the end of every chunk.
      stop: asked after every chunk; a reason ends the run there, its state saved, or shown where there is no `state_file`.
      max_temperature: K; hotter atoms end the run, in the very step, and so does one that changes the potential energy by more than 1e5
        times the kinetic energy that they would have. By default ten times the target, or the start.
      state_file: where the state is saved, every `save_every` steps and at the end.
      restart: go on from `state_file`: on one machine, a run of 16 steps and two of 8 give the same bits. Conditions must be as they were,
        apart from `steps` and from what is seen of them.
      outputs: what the output files are and how many bytes each has, to be kept in the state file (`Recorder.sizes`).
      chunk: most steps in one call of the program.
      site_energy: takes the place of the model's own function `(params, vectors [N, M, 3], graph) -> node energies [N]`.
      head: which head to use, of a model with several.

    Raises:
      ValueError: a head that the model does not have; a model with several heads, none of which was named.
      ConfigError: options that are wrong, or that would do nothing; a model without energies.
      DataError: atoms that are no valid structure, an element that the model does not know, an input that it needs, another constraint, a
        mass that is not above 0; a state file that is damaged or of another run.
      SimulationError: a number that is not finite, an absurd temperature, a potential energy that jumps, atoms that collapsed, an output
        that could not be written.
    """
    ensemble = check(ensemble, atoms.pbc)
    seed = whole("seed", seed, 0, SEEDS)
    check_hottest(max_temperature)
    check_masses(atoms)
    model = loaded(model)
    if head is not None or len(model.config.heads) > 1:
        model = select_head(model, head)
    check_model(model.config)
    numbers = whole("steps", steps), whole("every", every, 1), whole("save_every", save_every, 1), whole("chunk", chunk, 1)
    plan = _Plan(*numbers, observe, report, stop, state_file, outputs, ensemble.timestep, restart)
    check_skin(skin)
    if restart and state_file is None:
        raise ConfigError("a restart needs the state file of the run that is to go on.")
    policy = device_policy(dtype, site_energy)
    species, free = _species(atoms, model.config), _free(atoms, ensemble)
    conditions = _conditions(atoms, ensemble, model, policy, skin, seed, species, free)
    function = _site_energy(model.config, policy.products) if site_energy is None else site_energy
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, policy.parameters), model.params)
        program = Program(function, middle_of(ensemble), params, species, settings_of(ensemble, atoms.get_masses(), free), np.inf)
        if restart:
            saved = load_state(state_file)
            limit = saved.conditions.pop("hottest", None)
            compare(saved, conditions, plan.steps, state_file)
            state, rows = saved.state, saved.rows
        else:
            state, rows = _start(atoms, model.config.cutoff, skin, ensemble, seed, free)
            limit = hottest(atoms, ensemble.temperature)
            state, rows = first_evaluation(program, state, rows)
        program = program._replace(hottest=limit if max_temperature is None else max_temperature)
        return _loop(program, state, rows, plan, atoms, e0s_of(model.config, species), conditions | {"hottest": limit})


def _loop(program: Program, state: State, rows: RowList, plan: _Plan, atoms: Atoms, e0s: np.ndarray, conditions: dict[str, Any]) -> Outcome:
    """Chunk after chunk, with a look after each; of a restart, what is seen first was seen and saved before."""
    replays, known = 0, int(state.step) if plan.restart else -1
    while True:
        step, reason = int(state.step), (plan.stop() if plan.stop else None) or ""
        over = step >= plan.steps or bool(reason)
        _give_back(atoms, state, e0s)
        seen = thermo(atoms, step, plan.timestep)
        try:
            if plan.observe is not None and step > known and (step % plan.every == 0 or step >= plan.steps or _is_all_there_is(plan, over)):
                plan.observe(atoms, seen)
            if plan.report is not None:
                plan.report(seen)
            if plan.state_file is not None and step > known and (over or (step % plan.save_every == 0 and step > 0)):
                save_state(plan.state_file, Saved(state, rows, conditions, plan.outputs()))
        except OSError as error:
            raise SimulationError(unwritten(f"step {step}: an output", error, plan.state_file)) from error
        if over:
            return Outcome(seen, int(rows.rebuilds), replays, reason if step < plan.steps else "")
        state, rows, more = run_chunk(program, state, rows, plan.next_stop(step), plan.timestep)
        replays += more


def _is_all_there_is(plan: _Plan, over: bool) -> bool:
    """Whether the frame of now is what a stopped run can go on from. A state is better: its files are those of a run that never stopped."""
    return over and plan.state_file is None


def _species(atoms: Atoms, config: ModelConfig) -> Species:
    structure = structure_of(atoms, config)
    return with_inputs(species_of(structure.numbers, config.elements), structure, config)


def _free(atoms: Atoms, ensemble: Ensemble) -> np.ndarray:
    free = free_of(atoms)
    if not free.any():
        raise ConfigError("all atoms are held: nothing would move.")
    if ensemble.name == "npt" and not free.all():
        raise ConfigError("npt moves every atom with the cell: take the constraints away, or use nvt.")
    return free


def _start(atoms: Atoms, cutoff: float, skin: float, ensemble: Ensemble, seed: int, free: np.ndarray) -> tuple[State, RowList]:
    if ensemble.temperature is not None and not np.any(atoms.get_momenta()):
        thermalize(atoms, ensemble.temperature, np.random.default_rng(seed))
    momenta, masses = np.where(free, atoms.get_momenta(), 0), atoms.get_masses()[:, None]
    if ensemble.name != "nve" and keeps_momentum(ensemble) and len(atoms) > 1:
        momenta = momenta - masses / masses.sum() * np.where(free.all(axis=0), momenta.sum(axis=0), 0)
        if ensemble.thermostat == "csvr" and np.abs(momenta).max() <= REST * np.abs(atoms.get_momenta()).max():
            raise ConfigError("csvr scales velocities, and these atoms move as a whole only: set others, or take another thermostat.")
    atoms.set_momenta(momenta)
    cell, (a, b, c) = np.array(atoms.cell.array), atoms.pbc.tolist()
    rows = allocate(shape_for(atoms.positions, cell, (a, b, c), cutoff, skin), atoms.positions, cell)
    found = Evaluation(jnp.zeros(()), jnp.zeros_like(momenta), jnp.zeros((3, 3)))
    key, chain = jax.random.PRNGKey(seed), jnp.zeros((2, CHAIN))
    return State(jnp.int32(0), jnp.asarray(atoms.positions), jnp.asarray(momenta), jnp.asarray(cell), found, chain, key), rows


def _give_back(atoms: Atoms, state: State, e0s: np.ndarray) -> None:
    """Put the state into `atoms`, E0s added in float64."""
    positions, momenta, cell, found = jax.device_get((state.positions, state.momenta, state.cell, state.found))
    atoms.positions = positions
    atoms.set_momenta(momenta)
    if not np.array_equal(cell, atoms.cell.array):
        atoms.set_cell(cell)
    results: dict[str, Any] = {"energy": float(found.energy) + float(e0s.sum()), "forces": np.array(found.forces)}
    size = volume(atoms.cell.array)
    if size > 0:
        results["stress"] = full_3x3_to_voigt_6_stress(found.strain_derivative / size)
    atoms.calc = SinglePointCalculator(atoms, **results)


def _conditions(
    atoms: Atoms, ensemble: Ensemble, model: Model, policy: Precision, skin: float, seed: int, species: Species, free: np.ndarray
) -> dict[str, Any]:
    """What must be the same when a run goes on; JSON."""
    system = {"numbers": atoms.numbers.tolist(), "masses": atoms.get_masses().tolist(), "pbc": atoms.pbc.tolist()}
    inputs = {name: value.tolist() for name, value in ((species.of_atoms or {}) | (species.of_structure or {})).items()}
    system |= {"held": np.argwhere(~free).tolist(), "inputs": inputs}
    of_model = {"model": digest_of(model), "dtype": policy.compute or policy.parameters}
    return {**ensemble._asdict(), **system, **of_model, "skin": float(skin), "seed": seed}


@functools.lru_cache(maxsize=16)
def _site_energy(config: ModelConfig, products: str) -> SiteEnergy:
    """One function for equal configurations: a compiled program is found again by it."""
    return build(config, matmul_precision=products).apply
