"""`macejax relax`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from macejax.cli.options import Dtype

if TYPE_CHECKING:
    from ase import Atoms

    from macejax.simulate.many import Relaxed

MOST_LINES = 40  # structures; of more, only those that did not converge have a line


def command(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structures: Annotated[list[Path], typer.Argument(help="Structures to relax, any number of files: extended XYZ or what ASE reads.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Relaxed structures (extended XYZ) with energy, forces and stress, in the order given.")
    ] = Path("relaxed.xyz"),
    index: Annotated[str, typer.Option(help="Which structures of each file, as in ASE: ':' all, '0' the first, '-1' the last.")] = ":",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the lattice vectors too.")] = False,
    pressure: Annotated[float, typer.Option(help="Pressure on the free cell (GPa).")] = 0.0,
    fmax: Annotated[float, typer.Option(help="Largest force that is left (eV/Angstrom).")] = 0.01,
    smax: Annotated[float | None, typer.Option(help="With --cell: also the largest stress that is left (GPa).")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most steps for each structure.")] = 500,
    optimizer: Annotated[
        Literal["LBFGS", "FIRE", "BFGS"],
        typer.Option(help="LBFGS and FIRE relax many structures at once; BFGS one by one, through ASE, with any of ASE's constraints."),
    ] = "LBFGS",
    batch_atoms: Annotated[
        int | None, typer.Option(min=1, help="Atoms that run at a time; changes speed and memory, not results. [default: 1024]")
    ] = None,
    trajectory: Annotated[Path | None, typer.Option(help="Every step of every structure (extended XYZ).")] = None,
    log: Annotated[Path | None, typer.Option(help="Structure, step, energy and largest force of every step (JSON lines).")] = None,
    head: Annotated[str | None, typer.Option(help="Which head to use, of a model with several.")] = None,
    report: Annotated[bool, typer.Option(help="Write a page (HTML) and a figure (PNG) beside the output.")] = True,
    dtype: Annotated[
        Dtype, typer.Option(help="Precision; float32 reaches an fmax of about 0.001; tf32x3, tf32: on a GPU; bf16: on a GPU or TPU.")
    ] = "float64",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Relax structures with a model, many at once. Atoms that the files hold fixed stay. Exits with 1 where one did not converge."""
    import time

    from macejax.cli.process import set_up_jax

    set_up_jax(dtype)
    from macejax.checkpoint.load import load_model
    from macejax.cli.progress import progress
    from macejax.config import ConfigError
    from macejax.simulate.many import relax_many, relax_one_by_one
    from macejax.simulate.many.files import inputs, saving
    from macejax.simulate.many.report import write_report

    for flag, value in (("--smax", smax), ("--batch-atoms", batch_atoms)):
        if optimizer == "BFGS" and value is not None:
            raise ConfigError(f"{flag} is for LBFGS and FIRE; BFGS would ignore it.")
    starts, names = inputs(structures, index)
    options: dict[str, Any] = {"fmax": fmax, "steps": steps, "cell": cell, "pressure": pressure, "dtype": dtype, "head": head}
    if optimizer != "BFGS":
        options |= {"optimizer": optimizer, "smax": smax, "batch_atoms": batch_atoms or 1024}
    page, picture = output.with_suffix(".html"), output.with_suffix(".png")
    others = {"the report": page, "its figure": picture} if report else {}
    began, loaded = time.perf_counter(), load_model(model)
    with progress("relax", len(starts), "structure") as show, saving(output, trajectory, log, others, overwrite) as (observe, keep):
        done = 0

        def on_result(place: int, result: Relaxed) -> None:
            nonlocal done
            done += 1
            keep(place, result)
            show(done, result.name)

        relaxing = relax_one_by_one if optimizer == "BFGS" else relax_many
        results = relaxing(loaded, starts, names=names, observe=observe, on_result=on_result, **options).results
    seconds = time.perf_counter() - began
    _tell(starts, results, seconds)
    typer.echo(f"Written to {output}.")
    if report:
        facts = {"model": str(model), "optimizer": optimizer, "files": ", ".join(map(str, structures)), "seconds": f"{seconds:.1f}"}
        facts |= {name: str(value) for name, value in options.items() if value is not None}
        write_report(page, starts, results, seconds, facts, fmax)
        typer.echo(f"Report: {page}, figure: {picture}.")
    if not all(result.end.converged for result in results):
        raise typer.Exit(1)


def _tell(starts: list[Atoms], results: list[Relaxed], seconds: float) -> None:
    """A table of the structures, of many only of those that need a look, and a summary."""
    from macejax.simulate.many.report import HEAD, row_of
    from macejax.train.table import Table, plain

    rows = [row_of(start, result) for start, result in zip(starts, results, strict=True)]
    shown = [row.cells() for row, result in zip(rows, results, strict=True) if len(rows) <= MOST_LINES or not result.end.converged]
    if shown:
        typer.echo(plain(Table(list(HEAD), shown)))
    for result in results:
        if result.stopped:
            typer.echo(result.stopped)
    converged = sum(result.end.converged for result in results)
    typer.echo(f"{converged} of {len(results)} converged, {sum(row.steps for row in rows)} steps, {seconds:.1f} s.")
