"""`macejax md`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


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
    ensemble: Annotated[Literal["nve", "nvt", "npt"], typer.Option(help="nve: velocity Verlet; nvt, npt: Langevin (BAOAB).")] = "nve",
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
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="Precision; float64 conserves energy better.")] = "float64",
    skin: Annotated[float, typer.Option(min=0, help="Of the neighbour list, Angstrom; changes speed, not results.")] = 0.5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Run molecular dynamics with a model. Stops with a sentence where the run explodes."""
    from ase import Atoms

    from macejax.cli.process import set_up_jax

    set_up_jax(dtype)
    from macejax.cli.progress import progress
    from macejax.simulate import Calculator, Thermo, recorder, run_md
    from macejax.simulate.record import read_frames

    atoms = read_frames(structure, str(index))[0]
    atoms.calc = Calculator(model, dtype=dtype, skin=skin)
    with recorder(output, log, overwrite=overwrite) as record, progress("md", steps) as show:

        def observe(atoms: Atoms, state: Thermo) -> None:
            record(atoms, state)
            show(state.step, f"{state.temperature:.0f} K  {state.total_energy:.4f} eV")

        end = run_md(
            atoms,
            steps,
            ensemble=ensemble,
            timestep=timestep,
            temperature=temperature,
            pressure=pressure,
            relaxation_time=relaxation_time,
            barostat_time=barostat_time,
            free_shape=free_shape,
            seed=seed,
            every=every,
            observe=observe,
        )
    calculator = atoms.calc
    typer.echo(
        f"{end.time / 1000:.3f} ps, {end.temperature:.0f} K, {end.total_energy:.6f} eV; compiled {calculator.num_compilations} times, "
        f"{calculator.num_rebuilds} neighbour lists made; written to {output} and {log}."
    )
