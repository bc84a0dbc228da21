"""What `macejax md` does once its options are read: the engines, and what they say at their end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from macejax.cli.options import Dtype, Radial

if TYPE_CHECKING:
    from ase import Atoms

    from macejax.model.model import Model
    from macejax.simulate.ensemble import Ensemble
    from macejax.simulate.md import Thermo
    from macejax.simulate.report import Told


class Run(NamedTuple):
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


def go(run: Run, engine: str, state: Path | None, save_every: int, restart: bool, report: bool) -> None:
    """Run, and tell of it; exits with 1 where one of several exploded."""
    from macejax.config import ConfigError
    from macejax.simulate.record import refuse_existing, refuse_same

    if restart and (state is None or run.overwrite):
        raise ConfigError("--restart needs --state, the file of the run that is to go on, and appends: it does not go with --overwrite.")
    page = run.output.with_suffix(".html")
    pages = {"the report": page, "its figure": page.with_suffix(".png")} if report else {}
    refuse_same(_outputs(run) | {"--state": state} | pages)
    refuse_existing((state,), restart or run.overwrite, "go on from it with --restart, choose another name")
    refuse_existing(pages.values(), restart or run.overwrite)
    if len(run.starts) > 1:
        told, failed = _many(run, state, save_every, restart)
    else:
        failed = False
        told = [_with_ase(run) if engine == "ase" else _on_device(run, state, save_every, restart)]
    if report:
        _write_report(page, run, told)
    if failed:
        raise typer.Exit(1)


def _outputs(run: Run) -> dict[str, Path | None]:
    """Trajectories and logs that will be written, by what they are called."""
    if len(run.starts) == 1:
        return {"the trajectory (--output)": run.output, "--log": run.log}
    of_each = [f"{k}.{end}" for k in range(len(run.starts)) for end in ("xyz", "jsonl")]
    return {"the folder (--output)": run.output} | {f"{name} in that folder": run.output / name for name in of_each}


def _with_ase(run: Run) -> Told:
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


def _on_device(run: Run, state: Path | None, save_every: int, restart: bool) -> Told:
    from macejax.cache import compilations
    from macejax.cli.progress import progress
    from macejax.simulate import recorder, run_on_device
    from macejax.simulate.signed import load_outputs
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


def _many(run: Run, state: Path | None, save_every: int, restart: bool) -> tuple[list[Told], bool]:
    """All structures in one program, a trajectory and a log of each in the folder `run.output`; and whether one of them exploded."""
    from macejax.cli.progress import progress
    from macejax.simulate import run_many
    from macejax.simulate.many import record_each
    from macejax.simulate.report import HEAD, Told
    from macejax.simulate.signed import load_outputs
    from macejax.train.guard import stop_on_signal
    from macejax.train.table import Table, plain

    options = run.ensemble._asdict()
    del options["thermostat"]
    record = record_each(run.output, run.overwrite, load_outputs(state) if restart else None)
    steps = len(run.starts) * run.steps
    reached = [seen[-1].step if (seen := _thermo(record.log(k))) else 0 for k in range(len(run.starts))]
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
    told = [Told(each.name, len(each.atoms), _thermo(record.log(k)), each.stopped) for k, each in enumerate(runs)]
    typer.echo(plain(Table(list(HEAD), [each.cells() for each in told])))
    typer.echo(f"Written to {run.output}: k.xyz and k.jsonl of structure k, counted from 0.")
    if reason:
        how = "from the last frame of each, with the steps that are left to it" if state is None else f"from {state} with --restart"
        typer.echo(f"Ended by {reason}. Go on {how}.")
    return told, reason is None and any(each.stopped for each in told)


def _told(run: Run, reason: str | None) -> Told:
    """What there is to say of a run of one structure."""
    from macejax.simulate.report import Told

    return Told(run.names[0], len(run.starts[0]), _thermo(run.log), f"stopped by {reason}" if reason else "")


def _thermo(log: Path | None) -> list[Thermo]:
    """What a log has of a run, of all its parts where it was gone on with; nothing where there is none."""
    import json

    from macejax.simulate.md import Thermo

    lines = log.read_text(encoding="utf-8").splitlines() if log is not None else []
    return [Thermo(**json.loads(line)) for line in lines]


def _write_report(page: Path, run: Run, told: list[Told]) -> None:
    from macejax.simulate.report import write_md_report

    options: dict[str, Any] = run.ensemble._asdict() | {"steps": run.steps, "seed": run.seed, "dtype": run.dtype, "skin": run.skin}
    facts = {"model": str(run.model)} | {name: str(value) for name, value in options.items() if value not in (None, False)}
    picture = write_md_report(page, told, facts)
    typer.echo(f"Report: {page}, figure: {picture}.")


def _loaded(run: Run) -> Model:
    """The model, with tables for its radial networks where they are asked for."""
    from macejax.checkpoint.load import load_model

    model = load_model(run.model)
    if run.radial == "network":
        return model
    from macejax.model.tabulate import tabulate

    return tabulate(model)


def _go_on(run: Run, end: Thermo, reason: str | None, state: Path | None = None) -> str:
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
