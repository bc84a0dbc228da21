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
    from macejax.checkpoint.load import load_model
    from macejax.checkpoint.torch_export import save_torch
    from macejax.config import ConfigError

    if output.exists() and not overwrite:
        raise ConfigError(f"{output} is there already: choose another name, or --overwrite.")
    save_torch(output, load_model(file))
    typer.echo(f"{output}: module of mace-torch. It is a pickle, which is a program: those who load it must trust you.")
