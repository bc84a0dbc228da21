"""`macejax heads`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="Model file, or name of a published model.")],
    output: Annotated[Path | None, typer.Argument(help="Model file to write, with --select, --remove or --add.")] = None,
    select: Annotated[str | None, typer.Option(help="Keep this head alone.")] = None,
    remove: Annotated[str | None, typer.Option(help="Leave this head out.")] = None,
    add: Annotated[str | None, typer.Option(help="Add a head of this name; train it, or it stays a copy.")] = None,
    like: Annotated[str | None, typer.Option(help="With --add: head whose weights it starts with. [default: the last]")] = None,
    e0: Annotated[list[str] | None, typer.Option(help="With --add: energy of an isolated atom (eV), such as H=-13.6. Repeatable.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """List the heads (levels of theory) of a model, or write it with other ones."""
    from macejax.checkpoint.load import load_model
    from macejax.checkpoint.model_file import save_model
    from macejax.config import ConfigError
    from macejax.data.species import SYMBOLS
    from macejax.model.heads import add_head, remove_head, select_head

    chosen = [name for name in (select, remove, add) if name is not None]
    if len(chosen) > 1:
        raise ConfigError("one of --select, --remove and --add at a time.")
    if add is None and (like is not None or e0):
        raise ConfigError("--like and --e0 say what a head starts with that --add makes: they have no effect alone.")
    if bool(chosen) != (output is not None):
        raise ConfigError("to write a model, give both an output and one of --select, --remove, --add; to list its heads, neither.")
    if output is not None and output.exists() and not overwrite:
        raise ConfigError(f"{output} is there already: choose another name, or --overwrite.")
    found = load_model(model)
    if select is not None:
        found = select_head(found, select)
    elif remove is not None:
        found = remove_head(found, remove)
    elif add is not None:
        found = add_head(found, add, like=like, e0s=_table(e0 or []) or None)
    config = found.config
    for head, row, scale, shift in zip(config.heads, config.e0_table, config.scales, config.shifts, strict=True):
        energies = ", ".join(f"{SYMBOLS[number]} {energy:.6g}" for number, energy in zip(config.elements, row, strict=True))
        typer.echo(f"{head}: scale {scale:.4g} eV, shift {shift:.4g} eV, isolated atoms (eV): {energies}")
    if output is not None:
        save_model(output, found)
        typer.echo(f"written to {output}.")


def _table(assignments: list[str]) -> dict[int | str, float]:
    from macejax.config import ConfigError

    table: dict[int | str, float] = {}
    for assignment in assignments:
        element, _, energy = assignment.partition("=")
        try:
            table[element] = float(energy)
        except ValueError:
            raise ConfigError(f"--e0 {assignment}: write element=energy, such as H=-13.6.") from None
    return table
