"""`macejax export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="Model file.")],
    output: Annotated[Path, typer.Argument(help="File to write, by custom ending in .model.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a model as a module of mace-torch, which LAMMPS, OpenMM and others take. Needs the extra `torch`."""
    from macejax.checkpoint.load import load_with_extra
    from macejax.checkpoint.torch_export import save_torch
    from macejax.checkpoint.torch_file import ORIGIN
    from macejax.cli.output import require_output

    require_output(output, overwrite)
    model, extra = load_with_extra(file)
    origin = {name: str(extra[name]) for name in ORIGIN if name in extra}
    save_torch(output, model, origin)
    told = "".join(f" {name.capitalize()}: {value}." for name, value in origin.items())
    typer.echo(f"{output}: module of mace-torch. It is a pickle, which is a program: those who load it must trust you.{told}")
