"""`macejax relax`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structures: Annotated[Path, typer.Argument(help="Structures to relax: extended XYZ or anything that ASE reads.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Relaxed structures (extended XYZ) with energy, forces and stress.")
    ] = Path("relaxed.xyz"),
    index: Annotated[str, typer.Option(help="Which structures of the file, as in ASE: ':' all, '0' the first, '-1' the last.")] = ":",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the lattice vectors too.")] = False,
    pressure: Annotated[float, typer.Option(help="Pressure on the free cell (GPa).")] = 0.0,
    fmax: Annotated[float, typer.Option(help="Largest force that is left (eV/Angstrom).")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, help="Most steps for each structure.")] = 500,
    optimizer: Annotated[
        Literal["BFGS", "LBFGS", "FIRE"], typer.Option(help="BFGS for small systems; LBFGS and FIRE also for large ones.")
    ] = "BFGS",
    trajectory: Annotated[Path | None, typer.Option(help="Every step of every structure (extended XYZ).")] = None,
    log: Annotated[Path | None, typer.Option(help="Step, energy and largest force of every step (JSON lines).")] = None,
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="Precision; float32 reaches an fmax of about 0.001.")] = "float64",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Relax structures with a model. Exits with 1 where one of them did not converge."""
    from macejax.cli.process import set_up_jax

    set_up_jax(dtype)
    from macejax.simulate import Calculator, recorder, relax
    from macejax.simulate.record import read_frames

    frames = read_frames(structures, index)
    calculator = Calculator(model, dtype=dtype)
    unfinished = 0
    with recorder(output, overwrite=overwrite) as save, recorder(trajectory, log, overwrite=overwrite) as record:
        for number, atoms in enumerate(frames):
            atoms.calc = calculator
            end = relax(atoms, fmax=fmax, steps=steps, optimizer=optimizer, cell=cell, pressure=pressure, observe=record)
            save(atoms, end)
            unfinished += not end.converged
            verdict = "converged" if end.converged else "NOT converged"
            typer.echo(
                f"{number:4d}  {atoms.get_chemical_formula():16s} {end.energy:16.6f} eV  largest force {end.largest_force:.5f} eV/Å  "
                f"{end.step:4d} steps  {verdict}"
            )
    typer.echo(f"{len(frames) - unfinished} of {len(frames)} converged; written to {output}.")
    if unfinished:
        raise typer.Exit(1)
