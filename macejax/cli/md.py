"""`macejax md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from macejax.cli.options import Dtype, Radial

if TYPE_CHECKING:
    from macejax.simulate.ensemble import Ensemble
    from macejax.simulate.md import Thermo


def command(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structure: Annotated[Path, typer.Argument(help="Where to start: extended XYZ or anything that ASE reads. Velocities in it are kept.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Trajectory (extended XYZ) with momenta, energies and forces.")] = Path(
        "md.xyz"
    ),
    log: Annotated[
        Path, typer.Option(help="Step, time (fs), energies (eV), temperature (K), volume (Å³), pressure (GPa) as JSON lines.")
    ] = Path("md.jsonl"),
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
    index: Annotated[int, typer.Option(help="Which structure of the file; -1 is the last.")] = -1,
    dtype: Annotated[
        Dtype, typer.Option(help="Precision; float64 conserves energy better; tf32x3, tf32, bf16: engine ase on a GPU only.")
    ] = "float64",
    skin: Annotated[float, typer.Option(min=0, help="Of the neighbour list, Angstrom; changes speed, not results.")] = 0.5,
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
    radial: Annotated[Radial, typer.Option(help="table: splines for the radial networks, forces within 1e-5 of their rms.")] = "network",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Run molecular dynamics with a model. Stops with a sentence where the run explodes."""
    from macejax.cli.process import set_up_jax

    set_up_jax(dtype)
    from macejax.simulate.ensemble import Ensemble

    _refuse(engine, thermostat=thermostat, compressibility=compressibility, state=state, save_every=save_every, restart=restart or None)
    ensemble_options = Ensemble(
        ensemble, timestep, temperature, thermostat, relaxation_time, pressure, barostat_time, compressibility, free_shape
    )
    run = _Run(model, structure, output, log, steps, ensemble_options, seed, every, index, dtype, skin, head, radial, overwrite)
    if engine == "ase":
        _with_ase(run)
    else:
        _on_device(run, state, 1000 if save_every is None else save_every, restart)


class _Run(NamedTuple):
    """What both engines are told."""

    model: Path
    structure: Path
    output: Path
    log: Path
    steps: int
    ensemble: Ensemble
    seed: int
    every: int
    frame: int
    dtype: Dtype
    skin: float
    head: str | None
    radial: Radial
    overwrite: bool


def _with_ase(run: _Run) -> None:
    from ase import Atoms

    from macejax.cli.progress import progress
    from macejax.simulate import Calculator, recorder, run_md
    from macejax.simulate.record import read_frames

    atoms = read_frames(run.structure, str(run.frame))[0]
    atoms.calc = calculator = Calculator(run.model, dtype=run.dtype, skin=run.skin, head=run.head, radial=run.radial)
    options = run.ensemble._asdict()
    del options["thermostat"], options["compressibility"]
    with recorder(run.output, run.log, overwrite=run.overwrite) as record, progress("md", run.steps) as show:

        def observe(atoms: Atoms, state: Thermo) -> None:
            record(atoms, state)
            show(state.step, _note(state))

        end = run_md(atoms, run.steps, ensemble=options.pop("name"), **options, seed=run.seed, every=run.every, observe=observe)
    counts = f"compiled {calculator.num_compilations} times, {calculator.num_rebuilds} neighbour lists made"
    typer.echo(f"{_end(end)}; {counts}; written to {run.output} and {run.log}.")


def _on_device(run: _Run, state: Path | None, save_every: int, restart: bool) -> None:
    from macejax.cache import compilations
    from macejax.checkpoint.model_file import load_model
    from macejax.cli.progress import progress
    from macejax.config import ConfigError
    from macejax.simulate import recorder, run_on_device
    from macejax.simulate.record import read_frames
    from macejax.simulate.restart import load_outputs

    if restart and (state is None or run.overwrite):
        raise ConfigError("--restart needs --state, the file of the run that is to go on, and appends: it does not go with --overwrite.")
    if run.dtype != "float64" and run.dtype != "float32":
        raise ConfigError(f"--dtype {run.dtype} is for --engine ase only; jax computes in float64 or float32.")
    atoms, model = read_frames(run.structure, str(run.frame))[0], load_model(run.model)
    if run.radial == "table":
        from macejax.model.tabulate import tabulate

        model = tabulate(model)
    resume = load_outputs(state) if restart else None
    if state is not None and state.exists() and not (restart or run.overwrite):
        raise FileExistsError(f"{state} exists already: go on from it with --restart, choose another name, or allow it to be overwritten.")
    with (
        recorder(run.output, run.log, overwrite=run.overwrite, resume=resume) as record,
        progress("md", run.steps) as show,
        compilations() as made,
    ):
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
            state_file=state,
            save_every=save_every,
            restart=restart,
            outputs=record.sizes,
            head=run.head,
        )
    compiled = sum("advance" in program.name for program in made)  # `simulate.program.advance`, the one with the model in it
    counts = f"compiled {compiled} times, {end.num_rebuilds} neighbour lists made, {end.num_replays} chunks replayed"
    typer.echo(f"{_end(end.thermo)}; {counts}; written to {run.output} and {run.log}.")


def _refuse(engine: str, **options: object) -> None:
    """Options of the engine jax, where there is another."""
    from macejax.config import ConfigError

    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if engine != "jax" and given:
        raise ConfigError(f"{', '.join(given)}: for --engine jax only; {engine} would ignore it.")
    if options["save_every"] is not None and options["state"] is None:
        raise ConfigError("--save-every does nothing without --state, the file to save to.")


def _note(state: Thermo) -> str:
    return f"{state.temperature:.0f} K  {state.total_energy:.4f} eV"


def _end(state: Thermo) -> str:
    return f"{state.time / 1000:.3f} ps, {state.temperature:.0f} K, {state.total_energy:.6f} eV"
