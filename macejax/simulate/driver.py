"""Molecular dynamics that stays on the device: steps, neighbour list and watch in one compiled program, in chunks that can be replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from macejax.config import ConfigError
from macejax.data.structure import DataError, Structure, volume
from macejax.data.structure import check as check_structure
from macejax.model.mace import Model, build
from macejax.potential import SiteEnergy
from macejax.simulate.ensemble import Ensemble, check, keeps_momentum, middle_of, settings_of
from macejax.simulate.integrators import CHAIN, Middle, Settings, State, kinetic_energy, step
from macejax.simulate.list_shape import allocate, grown, reshape, shape_for
from macejax.simulate.md import Observer, SimulationError, Thermo, explosion, hottest, thermalize, thermo
from macejax.simulate.restart import FilePath, Saved, load_state, save_state
from macejax.simulate.row_list import RowList, update
from macejax.simulate.system import Evaluation, Species, evaluate, species_of

CHUNK = 100  # steps in one call of the program, and at most what a replay costs
MOST_REPLAYS = 20  # of one chunk, each with larger arrays

Advance = Callable[..., tuple[State, RowList, jax.Array]]


class Outcome(NamedTuple):
    """How a run ended, and what its neighbour list did."""

    thermo: Thermo  # of the last step
    num_rebuilds: int  # of the list, on the device
    num_replays: int  # chunks done again with larger arrays, since the list had overflowed
    num_compilations: int  # of the program


class _Run(NamedTuple):
    """What does not change while a simulation runs."""

    advance: Advance
    params: Any
    settings: Settings
    hottest: float  # K
    traced: list[int]  # one entry for each compilation


def run_on_device(
    model: Model,
    atoms: Atoms,
    steps: int,
    ensemble: Ensemble = Ensemble(),  # noqa: B008  (immutable)
    *,
    dtype: Literal["float32", "float64"] = "float64",
    skin: float = 0.5,
    seed: int = 0,
    every: int = 10,
    observe: Observer | None = None,
    report: Callable[[Thermo], None] | None = None,
    max_temperature: float | None = None,
    state_file: FilePath | None = None,
    save_every: int = 1000,
    restart: bool = False,
    outputs: Callable[[], dict[str, int]] | None = None,
    chunk: int = CHUNK,
    site_energy: SiteEnergy | None = None,
) -> Outcome:
    """Run a simulation to step `steps`, and leave `atoms` where they then are, with energy, forces and stress.

    Neither the list nor the forces come to the host between two observations. The list is renewed within the program, in the step in which
    an atom has gone too far and before its forces are computed. What no longer fits its arrays raises a flag, and the chunk is done again,
    from its start and with larger ones: a result with missing neighbours is never seen. Positions and momenta are float64 always; `dtype`
    is that of the model.

    Args:
      model: potential.
      atoms: where to start. Atoms at rest are given velocities of the ensemble's temperature, without motion of the whole; csvr and
        nose_hoover, which keep the motion of the whole, take it away from others too.
      steps: number of the last step; a restart counts from the first run's beginning.
      ensemble: what is kept constant.
      dtype: precision of the model.
      skin: the neighbour list reaches this much (Angstrom) beyond the cutoff. Changes speed, not results.
      seed: of initial velocities and of the thermostat.
      every: steps from one call of `observe` to the next; step 0 and the last one are always shown. Looking changes nothing.
      observe: called with the atoms and the Thermo of the step.
      report: called with the Thermo of the end of every chunk.
      max_temperature: K; hotter atoms end the run, in the very step. By default ten times the target, or the start.
      state_file: where the state is saved, every `save_every` steps and at the end.
      restart: go on from `state_file`; on one kind of machine, a run of 16 steps and two of 8 give the same bits. Conditions must be as
        they were, apart from `steps` and from what is seen of them.
      outputs: what the output files are and how many bytes each has, to be kept in the state file (`macejax.simulate.record`).
      chunk: most steps in one call of the program.
      site_energy: takes the place of the model's own function `(params, vectors [N, M, 3], graph) -> node energies [N]`.

    Raises:
      ConfigError: options that are wrong, or that would do nothing. DataError: atoms that are no valid structure, or an element that the
        model does not know; a state file that is damaged or of another run.
      SimulationError: a number that is not finite, an absurd temperature, atoms that collapsed, an output that could not be written.
    """
    ensemble = check(ensemble, atoms.pbc)
    _check(atoms, steps, every, save_every, chunk, dtype, skin, restart, state_file)
    species = species_of(atoms.numbers, model.config.elements)
    function = build(model.config).apply if site_energy is None else site_energy
    conditions = _conditions(atoms, ensemble, model.config.cutoff, dtype, skin, seed)
    with jax.enable_x64(True):
        settings = settings_of(ensemble, atoms.get_masses())
        advance, traced = _program(function, species, middle_of(ensemble))
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), model.params)
        run = _Run(advance, params, settings, 0.0, traced)
        if restart:
            saved = load_state(state_file)
            _compare(saved.conditions, conditions, state_file)
            state, rows = saved.state, saved.rows
            run = run._replace(hottest=max_temperature or saved.conditions["hottest"])
        else:
            state, rows = _start(atoms, model.config.cutoff, skin, ensemble, seed)
            limit = hottest(atoms, ensemble.temperature)
            run, conditions = run._replace(hottest=max_temperature or limit), conditions | {"hottest": limit}
            state, rows, _ = _first(run, state, rows)
        conditions = conditions | {"hottest": run.hottest}
        e0s = np.asarray(model.config.e0s, np.float64)[species.index]
        replays, begin = 0, int(state.step)
        while True:
            number = int(state.step)
            _give_back(atoms, state, e0s)
            seen = thermo(atoms, number, ensemble.timestep)
            try:
                if observe is not None and (number % every == 0 or number >= steps) and not (restart and number == begin):
                    observe(atoms, seen)
                if report is not None:
                    report(seen)
                if state_file is not None and (number >= steps or (number % save_every == 0 and number > begin)):
                    save_state(state_file, Saved(state, rows, conditions, outputs() if outputs else {}))
            except OSError as error:
                kept = f" {state_file} holds the state of the last time it was saved." if state_file is not None else ""
                raise SimulationError(f"step {number}: an output could not be written, and the run ends here: {error}.{kept}") from error
            if number >= steps:
                return Outcome(seen, int(rows.rebuilds), replays, len(run.traced))
            until = min(number + chunk - number % chunk, steps, *(n - number % n + number for n in (every, save_every)))
            state, rows, more = _safely(run, state, rows, until, ensemble.timestep)
            replays += more


def _program(function: SiteEnergy, species: Species, middle: Middle) -> tuple[Advance, list[int]]:
    """The compiled loop: from a state to step `until`, or to where the list overflows or the run explodes."""
    traced: list[int] = []

    def advance(
        params: Any, settings: Settings, state: State, rows: RowList, until: jax.Array, limit: jax.Array
    ) -> tuple[State, RowList, jax.Array]:
        traced.append(1)  # python runs this while jax traces: once for each compilation

        def renew(positions: jax.Array, cell: jax.Array, rows: RowList) -> tuple[Evaluation, RowList]:
            rows = update(rows, positions, cell)
            return evaluate(function, params, species, positions, cell, rows), rows

        def goes_on(carry: tuple[State, RowList, jax.Array]) -> jax.Array:
            state, rows, sane = carry
            return (state.step < until) & sane & ~rows.overflow

        def body(carry: tuple[State, RowList, jax.Array]) -> tuple[State, RowList, jax.Array]:
            state, rows = step(carry[0], carry[1], settings, middle, renew)
            kinetic = kinetic_energy(state, settings)
            return state, rows, jnp.isfinite(state.found.energy) & (kinetic <= limit)  # NaN is no more than anything

        return jax.lax.while_loop(goes_on, body, (state, rows, jnp.bool_(True)))

    return jax.jit(advance), traced


def _safely(run: _Run, state: State, rows: RowList, until: int, timestep: float) -> tuple[State, RowList, int]:
    """One chunk, done again with larger arrays until nothing overflows. The last item counts how often."""
    limit = 1.5 * len(state.positions) * run.hottest * _boltzmann()
    for replays in range(MOST_REPLAYS):
        end, new, sane = run.advance(run.params, run.settings, state, rows, np.int32(until), np.float64(limit))
        if not bool(new.overflow):
            if not bool(sane):
                kinetic = float(kinetic_energy(end, run.settings))
                temperature = kinetic / (1.5 * len(state.positions) * _boltzmann())
                raise explosion(int(end.step), float(end.found.energy) + kinetic, temperature, run.hottest, timestep)
            return end, new, replays
        try:
            shape = grown(rows.shape, new)
        except DataError as error:
            raise SimulationError(f"step {int(end.step)}: {error}") from error
        rows = reshape(rows, shape)
    raise SimulationError(f"step {int(end.step)}: after {MOST_REPLAYS} enlargements the neighbour list still overflows: {new.shape}.")


def _first(run: _Run, state: State, rows: RowList) -> tuple[State, RowList, int]:
    """The state with its energy and forces: a step of no length, by the one program there is."""
    still = run._replace(settings=run.settings._replace(timestep=jnp.zeros_like(run.settings.timestep)), hottest=np.inf)
    return _safely(still, state._replace(step=jnp.int32(-1)), rows, 0, 0.0)


def _start(atoms: Atoms, cutoff: float, skin: float, ensemble: Ensemble, seed: int) -> tuple[State, RowList]:
    if ensemble.temperature is not None and not np.any(atoms.get_momenta()):
        thermalize(atoms, ensemble.temperature, np.random.default_rng(seed))
    momenta, masses = atoms.get_momenta(), atoms.get_masses()[:, None]
    if ensemble.name != "nve" and keeps_momentum(ensemble) and len(atoms) > 1:
        momenta = momenta - masses / masses.sum() * momenta.sum(axis=0)
        atoms.set_momenta(momenta)
    cell = np.array(atoms.cell.array)
    shape = shape_for(atoms.positions, cell, tuple(bool(p) for p in atoms.pbc), cutoff, skin)
    positions = jnp.asarray(atoms.positions)
    rows = allocate(shape, positions, jnp.asarray(cell))
    found = Evaluation(jnp.zeros(()), jnp.zeros_like(positions), jnp.zeros((3, 3)))
    chain = jnp.zeros((2, CHAIN))
    return State(jnp.int32(0), positions, jnp.asarray(momenta), jnp.asarray(cell), found, chain, jax.random.PRNGKey(seed)), rows


def _give_back(atoms: Atoms, state: State, e0s: np.ndarray) -> None:
    """Put the state into `atoms`, E0s added in float64."""
    positions, momenta, cell, found = jax.device_get((state.positions, state.momenta, state.cell, state.found))
    atoms.positions = positions
    atoms.set_momenta(momenta)
    if not np.array_equal(cell, atoms.cell.array):
        atoms.set_cell(cell)
    results = {"energy": float(found.energy) + float(e0s.sum()), "forces": np.array(found.forces)}
    size = volume(atoms.cell.array)
    if size > 0:
        stress = found.strain_derivative / size
        results["stress"] = np.array([stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]])
    atoms.calc = SinglePointCalculator(atoms, **results)


def _conditions(atoms: Atoms, ensemble: Ensemble, cutoff: float, dtype: str, skin: float, seed: int) -> dict[str, Any]:
    """What must be the same when a run goes on; JSON."""
    system = {"numbers": atoms.numbers.tolist(), "masses": atoms.get_masses().tolist(), "pbc": atoms.pbc.tolist()}
    return {**ensemble._asdict(), **system, "cutoff": cutoff, "dtype": dtype, "skin": skin, "seed": seed}


def _compare(saved: dict[str, Any], now: dict[str, Any], path: FilePath) -> None:
    for name, value in now.items():
        if saved.get(name) != value:
            said = "others" if name in ("numbers", "masses") else f"{saved.get(name)}, not {value}"
            raise DataError(f"{path}: is of a run whose {name} {'were' if said == 'others' else 'was'} {said}: go on as it began.")


def _check(
    atoms: Atoms, steps: int, every: int, save_every: int, chunk: int, dtype: str, skin: float, restart: bool, state_file: FilePath | None
) -> None:
    check_structure(Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc))
    if steps < 0 or min(every, save_every, chunk) < 1:
        raise ConfigError(f"steps must be 0 or more; every, save_every and chunk 1 or more: {steps}, {every}, {save_every}, {chunk}.")
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
    if not skin >= 0:
        raise ConfigError(f"skin must be 0 or more (Angstrom), not {skin}.")
    if restart and state_file is None:
        raise ConfigError("a restart needs the state file of the run that is to go on.")
    if atoms.constraints:
        raise ConfigError("constraints on atoms are not kept on the device: take them away, or use run_md.")


def _boltzmann() -> float:
    from ase.units import kB

    return kB
