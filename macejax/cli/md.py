"""`macejax md`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from macejax.cli.md_engines import Run, go
from macejax.cli.options import Dtype, Radial


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
    run = Run(model, starts, names, output, log, steps, ensemble_options, seed, every, dtype, skin, head, radial, overwrite)
    go(run, engine, state, 1000 if save_every is None else save_every, restart, report)


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
