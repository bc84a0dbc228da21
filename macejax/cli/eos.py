"""`macejax eos`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from macejax.cli.options import Dtype


def command(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structure: Annotated[Path, typer.Argument(help="Crystal, near its equilibrium: extended XYZ or anything that ASE reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Report (HTML); the figure is written beside it, as PNG.")] = Path(
        "eos.html"
    ),
    strain: Annotated[float, typer.Option(min=0.001, max=0.3, help="Largest change of lengths, either way.")] = 0.04,
    points: Annotated[int, typer.Option(min=5, help="Volumes.")] = 9,
    relax: Annotated[bool, typer.Option("--relax", help="Let the atoms settle at every volume, in a cell of constant shape.")] = False,
    fmax: Annotated[float | None, typer.Option(help="With --relax: largest force that is left (eV/Angstrom). [default: 0.001]")] = None,
    head: Annotated[str | None, typer.Option(help="Which head to use, of a model with several.")] = None,
    index: Annotated[int, typer.Option(help="Which structure of the file; -1 is the last.")] = -1,
    dtype: Annotated[Dtype, typer.Option(help="Precision.")] = "float64",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Energy over volume, equilibrium volume and bulk modulus of a crystal, by a Birch-Murnaghan fit."""
    from macejax.cli.process import set_up_jax

    set_up_jax(dtype)
    from macejax.config import ConfigError
    from macejax.properties.eos import equation_of_state
    from macejax.properties.report import write_eos_report
    from macejax.simulate import Calculator
    from macejax.simulate.record import read_frames, refuse_existing, refuse_same

    if fmax is not None and not relax:
        raise ConfigError("--fmax is for --relax, without which nothing moves.")
    fmax = 1e-3 if fmax is None else fmax
    picture = output.with_suffix(".png")
    refuse_same({"the report (--output)": output, "its figure": picture})
    refuse_existing((output, picture), overwrite)
    atoms = read_frames(structure, str(index))[0]
    atoms.calc = Calculator(model, dtype=dtype, head=head)
    found = equation_of_state(atoms, strain=strain, points=points, relax=relax, fmax=fmax)
    number, lengths = len(atoms), atoms.cell.lengths() * found.scale
    facts = {
        "model": str(model),
        "structure": f"{structure}, index {index}, {number} atoms",
        "lengths": f"{1 - strain:g} to {1 + strain:g} of those given, {points} volumes",
        "atoms": f"relaxed to {fmax:g} eV/Å" if relax else "in place",
        "lattice vectors at the minimum": ", ".join(f"{length:.5f} Å" for length in lengths),
        "root mean square of what the fit leaves": f"{1e6 * found.residual / number:.2f} µeV/atom",
    }
    write_eos_report(output, atoms, found, facts)
    typer.echo(
        f"bulk modulus {found.bulk_modulus:.3f} GPa, B' {found.derivative:.3f}, volume {found.volume / number:.5f} Å³/atom, "
        f"energy {found.energy / number:.6f} eV/atom\n"
        f"lattice vectors {', '.join(f'{length:.5f}' for length in lengths)} Å ({found.scale:.5f} of those given); "
        f"the fit leaves {1e6 * found.residual / number:.2f} µeV/atom\n"
        f"Report: {output}, figure: {picture}."
    )
