"""`macejax md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from macejax.cli.options import Dtype, Radial

if TYPE_CHECKING:
    from ase import Atoms

    from macejax.model.model import Model
    from macejax.simulate.ensemble import Ensemble
    from macejax.simulate.md import Thermo
    from macejax.simulate.report import Told


def command(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structures: Annotated[
        list[Path],
        typer.Argument(help="Where to start: extended XYZ or anything that ASE reads. Velocities are kept. Several run at once (jax)."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Trajectory (extended XYZ) with momenta, energies and forces; of several, a folder. [default: md.xyz, md]",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Step, time (fs), energies (eV), temperature (K), volume (Å³), pressure (GPa) as JSON lines; of several, in the folder. "
            "[default: md.jsonl]"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="Number of steps.")] = 1000,
    ensemble: Annotated[
        Literal["nve", "nvt", "npt"], typer.Option(help="nve: velocity Verlet; nvt, npt: Langevin (BAOAB), or --thermostat.")
    ] = "nve",
    timestep: Annotated[float, typer.Option(help="fs; 0.5 with hydrogen.")] = 0.5,
    temperature: Annotated[
        float, typer.Option(help="K; of the thermostat, and of the first velocities where the structure has none.")
    ] = 300.0,
    pressure: Annotated[float | None, typer.Option(help="GPa, npt only. [default: 0]")] = None,
    relaxation_time: Annotated[float | None, typer.Option(help="Of the thermostat, fs, nvt and npt only. [default: 100]")] = None,
    barostat_time: Annotated[float | None, typer.Option(help="Of the barostat, fs, npt only. [default: 1000]")] = None,
    free_shape: Annotated[bool, typer.Option("--free-shape", help="npt only: the whole cell moves, not just its volume.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of velocities and thermostat.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps from one frame to the next.")] = 10,
    index: Annotated[str, typer.Option(help="Which structures of each file, as in ASE: '-1' the last, ':' all.")] = "-1",
    dtype: Annotated[
        Dtype, typer.Option(help="Precision; float64 conserves energy better; tf32x3, tf32: on a GPU; bf16: on a GPU or TPU.")
    ] = "float64",
    skin: Annotated[
        float,
        typer.Option(
            min=0, help="Of the neighbour list, Angstrom; changes speed, not results. 0, for one structure only: a new list at every step."
        ),
    ] = 0.5,
    engine: Annotated[
        Literal["ase", "jax"], typer.Option(help="ase: step by step through ASE; jax: all on the device, in chunks, with restarts.")
    ] = "ase",
    thermostat: Annotated[
        Literal["langevin", "csvr", "nose_hoover"] | None, typer.Option(help="Engine jax, nvt and npt only. [default: langevin]")
    ] = None,
    compressibility: Annotated[
        float | None, typer.Option(help="1/GPa, of which the barostat makes its speed; engine jax, npt only. [default: 0.1]")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="File that the whole state is saved to, for --restart; engine jax only.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps from one save of --state to the next. [default: 1000]")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Go on from --state to step --steps, appending to the output.")] = False,
    head: Annotated[str | None, typer.Option(help="Which head to use, of a model with several.")] = None,
    report: Annotated[bool, typer.Option(help="Write a page (HTML) and a figure (PNG) beside the output.")] = True,
    radial: Annotated[Radial, typer.Option(help="table: splines for the radial networks, forces within 1e-5 of their rms.")] = "network",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Run molecular dynamics with a model. Stops with a sentence where the run explodes.

    SIGTERM and SIGUSR1 end it too, after the step (--engine ase) or chunk of steps (jax) that is being done, with exit code 0: what goes on
    from there is --restart where there is a --state, else the last frame of the output, as the next run's structure.
    """
    from macejax.cli.process import set_up_jax

    set_up_jax(dtype)
    from macejax.simulate.ensemble import Ensemble
    from macejax.simulate.many.files import inputs

    _refuse(engine, thermostat=thermostat, compressibility=compressibility, state=state, save_every=save_every, restart=restart or None)
    ensemble_options = Ensemble(
        ensemble, timestep, temperature, thermostat, relaxation_time, pressure, barostat_time, compressibility, free_shape
    )
    starts, names = inputs(structures, index)
    if len(starts) > 1:
        _refuse_many(engine, thermostat=thermostat, log=log)
    output, log = output or Path("md" if len(starts) > 1 else "md.xyz"), log or Path("md.jsonl")
    run = _Run(model, starts, names, output, log, steps, ensemble_options, seed, every, dtype, skin, head, radial, overwrite)
    _go(run, engine, state, 1000 if save_every is None else save_every, restart, report)


class _Run(NamedTuple):
    """What both engines are told."""

    model: Path
    starts: list[Atoms]
    names: list[str]
    output: Path
    log: Path
    steps: int
    ensemble: Ensemble
    seed: int
    every: int
    dtype: Dtype
    skin: float
    head: str | None
    radial: Radial
    overwrite: bool


def _go(run: _Run, engine: str, state: Path | None, save_every: int, restart: bool, report: bool) -> None:
    """Run, and tell of it; exits with 1 where one of several exploded."""
    from macejax.config import ConfigError
    from macejax.simulate.record import refuse_existing

    if restart and (state is None or run.overwrite):
        raise ConfigError("--restart needs --state, the file of the run that is to go on, and appends: it does not go with --overwrite.")
    page = run.output.with_suffix(".html")
    refuse_existing((state,), restart or run.overwrite, "go on from it with --restart, choose another name")
    refuse_existing((page, page.with_suffix(".png")) if report else (), restart or run.overwrite)
    if len(run.starts) > 1:
        told, failed = _many(run, state, save_every, restart)
    else:
        failed = False
        told = [_with_ase(run) if engine == "ase" else _on_device(run, state, save_every, restart)]
    if report:
        _write_report(page, run, told)
    if failed:
        raise typer.Exit(1)


def _with_ase(run: _Run) -> Told:
    from macejax.cli.progress import progress
    from macejax.simulate import Calculator, recorder, run_md
    from macejax.train.guard import stop_on_signal

    (atoms,) = run.starts
    atoms.calc = calculator = Calculator(run.model, dtype=run.dtype, skin=run.skin, head=run.head, radial=run.radial)
    options = run.ensemble._asdict()
    del options["thermostat"], options["compressibility"]
    with stop_on_signal() as stop, recorder(run.output, run.log, overwrite=run.overwrite) as record, progress("md", run.steps) as show:

        def observe(atoms: Atoms, state: Thermo) -> None:
            record(atoms, state)
            show(state.step, _note(state))

        options |= {"seed": run.seed, "every": run.every, "observe": observe, "stop": stop}
        end = run_md(atoms, run.steps, ensemble=options.pop("name"), **options)
        reason = stop() if end.step < run.steps else None
    counts = f"compiled {calculator.num_compilations} times, {calculator.num_rebuilds} neighbour lists made"
    typer.echo(f"{_end(end)}; {counts}; written to {run.output} and {run.log}.{_go_on(run, end, reason)}")
    return _told(run, reason)


def _on_device(run: _Run, state: Path | None, save_every: int, restart: bool) -> Told:
    from macejax.cache import compilations
    from macejax.cli.progress import progress
    from macejax.simulate import recorder, run_on_device
    from macejax.simulate.restart import load_outputs
    from macejax.train.guard import stop_on_signal

    (atoms,), model = run.starts, _loaded(run)
    resume = load_outputs(state) if restart else None
    files = recorder(run.output, run.log, overwrite=run.overwrite, resume=resume)
    with stop_on_signal() as stop, files as record, progress("md", run.steps) as show, compilations() as made:
        end = run_on_device(
            model,
            atoms,
            run.steps,
            run.ensemble,
            dtype=run.dtype,
            skin=run.skin,
            seed=run.seed,
            every=run.every,
            observe=record,
            report=lambda now: show(now.step, _note(now)),
            stop=stop,
            state_file=state,
            save_every=save_every,
            restart=restart,
            outputs=record.sizes,
            head=run.head,
        )
    compiled = sum("advance" in program.name for program in made)  # `simulate.program.advance`, the one with the model in it
    counts = f"compiled {compiled} times, {end.num_rebuilds} neighbour lists made, {end.num_replays} chunks replayed"
    typer.echo(f"{_end(end.thermo)}; {counts}; written to {run.output} and {run.log}.{_go_on(run, end.thermo, end.stopped, state)}")
    return _told(run, end.stopped)


def _many(run: _Run, state: Path | None, save_every: int, restart: bool) -> tuple[list[Told], bool]:
    """All structures in one program, a trajectory and a log of each in the folder `run.output`; and whether one of them exploded."""
    from macejax.cli.progress import progress
    from macejax.simulate import run_many
    from macejax.simulate.many import record_each
    from macejax.simulate.many.state import load_many_outputs
    from macejax.simulate.report import HEAD, Told
    from macejax.train.guard import stop_on_signal
    from macejax.train.table import Table, plain

    options = run.ensemble._asdict()
    del options["thermostat"]
    record = record_each(run.output, run.overwrite, load_many_outputs(state) if restart else None)
    steps = len(run.starts) * run.steps
    reached = [0] * len(run.starts)
    with stop_on_signal() as stop, progress("md", steps) as show:

        def observe(place: int, atoms: Atoms, state: Thermo) -> None:
            record(place, atoms, state)
            reached[place] = state.step
            show(sum(reached), f"{run.names[place]}  {_note(state)}")

        options |= {"ensemble": options.pop("name"), "seed": run.seed, "every": run.every, "dtype": run.dtype, "head": run.head}
        options |= {"skin": run.skin, "names": run.names, "observe": observe, "stop": stop, "keep_frames": False}
        options |= {"state_file": state, "save_every": save_every, "restart": restart, "outputs": record.sizes}
        runs = run_many(_loaded(run), run.starts, run.steps, **options).runs
        reason = stop()
    logs = [run.output / f"{place}.jsonl" for place in range(len(runs))]
    told = [Told(each.name, len(each.atoms), _thermo(log), each.stopped) for each, log in zip(runs, logs, strict=True)]
    typer.echo(plain(Table(list(HEAD), [each.cells() for each in told])))
    typer.echo(f"Written to {run.output}: k.xyz and k.jsonl of structure k, counted from 0.")
    if reason:
        how = "from the last frame of each, with the steps that are left to it" if state is None else f"from {state} with --restart"
        typer.echo(f"Ended by {reason}. Go on {how}.")
    return told, reason is None and any(each.stopped for each in told)


def _told(run: _Run, reason: str | None) -> Told:
    """What there is to say of a run of one structure."""
    from macejax.simulate.report import Told

    return Told(run.names[0], len(run.starts[0]), _thermo(run.log), f"stopped by {reason}" if reason else "")


def _thermo(log: Path) -> list[Thermo]:
    """What a log has of a run, of all its parts where it was gone on with; nothing where there is none."""
    import json

    from macejax.simulate.md import Thermo

    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [Thermo(**json.loads(line)) for line in lines]


def _write_report(page: Path, run: _Run, told: list[Told]) -> None:
    from macejax.simulate.report import write_md_report

    options: dict[str, Any] = run.ensemble._asdict() | {"steps": run.steps, "seed": run.seed, "dtype": run.dtype, "skin": run.skin}
    facts = {"model": str(run.model)} | {name: str(value) for name, value in options.items() if value not in (None, False)}
    picture = write_md_report(page, told, facts)
    typer.echo(f"Report: {page}, figure: {picture}.")


def _loaded(run: _Run) -> Model:
    """The model, with tables for its radial networks where they are asked for."""
    from macejax.checkpoint.load import load_model

    model = load_model(run.model)
    if run.radial == "network":
        return model
    from macejax.model.tabulate import tabulate

    return tabulate(model)


def _refuse_many(engine: str, **options: object) -> None:
    """What several structures at once cannot be asked for."""
    from macejax.config import ConfigError

    if engine != "jax":
        raise ConfigError("several structures run at once on the device only: --engine jax, or one after the other.")
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: for one structure only; of several, each has a trajectory and a log in the folder --output."
        )


def _refuse(engine: str, **options: object) -> None:
    """Options of the engine jax, where there is another."""
    from macejax.config import ConfigError

    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if engine != "jax" and given:
        raise ConfigError(f"{', '.join(given)}: for --engine jax only; {engine} would ignore it.")
    if options["save_every"] is not None and options["state"] is None:
        raise ConfigError("--save-every does nothing without --state, the file to save to.")


def _go_on(run: _Run, end: Thermo, reason: str | None, state: Path | None = None) -> str:
    """What to say of a run that was stopped."""
    if not reason:
        return ""
    how = (
        f"from {state} with --restart" if state is not None else f"from the last frame of {run.output}, with --steps {run.steps - end.step}"
    )
    return f"\nStopped by {reason} at step {end.step} of {run.steps}. Go on {how}."


def _note(state: Thermo) -> str:
    return f"{state.temperature:.0f} K  {state.total_energy:.4f} eV"


def _end(state: Thermo) -> str:
    return f"{state.time / 1000:.3f} ps, {state.temperature:.0f} K, {state.total_energy:.6f} eV"
