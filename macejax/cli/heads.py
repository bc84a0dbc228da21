"""`macejax heads`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from macejax.config import ModelConfig


def command(
    model: Annotated[str, typer.Argument(help="Model file, or name of a published model.")],
    output: Annotated[Path | None, typer.Argument(help="Model file to write, with --select, --remove or --add.")] = None,
    select: Annotated[str | None, typer.Option(help="Keep this head alone.")] = None,
    remove: Annotated[str | None, typer.Option(help="Leave this head out.")] = None,
    add: Annotated[str | None, typer.Option(help="Add a head of this name: a copy of another, but for --e0.")] = None,
    like: Annotated[str | None, typer.Option(help="With --add: head whose weights, scale and shift it has. [default: the last]")] = None,
    e0: Annotated[list[str] | None, typer.Option(help="With --add: energy of an isolated atom (eV), such as H=-13.6. Repeatable.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """List the heads (levels of theory) of a model, or write it with other ones."""
    from macejax.checkpoint.load import load_with_extra
    from macejax.checkpoint.model_file import carried_over, save_model
    from macejax.cli.output import require_output
    from macejax.config import ConfigError
    from macejax.model.heads import add_head, remove_head, select_head

    chosen = [name for name in (select, remove, add) if name is not None]
    if len(chosen) > 1:
        raise ConfigError("one of --select, --remove and --add at a time.")
    if add is None and (like is not None or e0):
        raise ConfigError("--like and --e0 say what a head has that --add makes: they have no effect alone.")
    if bool(chosen) != (output is not None):
        raise ConfigError("to write a model, give both an output and one of --select, --remove, --add; to list its heads, neither.")
    if output is not None:
        require_output(output, overwrite)
    read, extra = load_with_extra(model)
    found = read
    if select is not None:
        found = select_head(read, select)
    elif remove is not None:
        found = remove_head(read, remove)
    elif add is not None:
        found = add_head(read, add, like=like, e0s=_table(e0 or []) or None)
    for line in _describe(found.config):
        typer.echo(line)
    if output is not None:
        save_model(output, found, carried_over(extra, read.config, found.config))
        typer.echo(f"written to {output}.")


def _describe(config: ModelConfig) -> Iterator[str]:
    """A line for each head: scale and shift, or what a model of moments predicts; and energies of isolated atoms, where there are any."""
    from macejax.config.predicts import PREDICTS
    from macejax.data.species import SYMBOLS

    for head, row, scale, shift in zip(config.heads, config.e0_table, config.scales, config.shifts, strict=True):
        energies = ", ".join(f"{SYMBOLS[number]} {energy:.6g}" for number, energy in zip(config.elements, row, strict=True))
        constants = f"predicts {', '.join(PREDICTS[config.model])}" if config.has_moments else f"scale {scale:.4g} eV, shift {shift:.4g} eV"
        yield f"{head}: {constants}" + (f", isolated atoms (eV): {energies}" if config.has_energies else "")


def _table(assignments: list[str]) -> dict[str, float]:
    """Energies (eV) by the elements as they were given, from `["H=-13.6", ...]`.

    Raises:
      ConfigError: no assignment, or an element that is given twice.
    """
    from macejax.config import ConfigError

    table: dict[str, float] = {}
    for assignment in assignments:
        element, _, energy = assignment.partition("=")
        if element in table:
            raise ConfigError(f"--e0 {assignment}: {element} is given twice.")
        try:
            table[element] = float(energy)
        except ValueError:
            raise ConfigError(f"--e0 {assignment}: write element=energy, such as H=-13.6.") from None
    return table
