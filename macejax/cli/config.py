"""`macejax config`."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    file: Annotated[
        str | None, typer.Argument(help="A configuration to complete: it is checked and printed with every option written out.")
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Override an option of FILE: section.option=value.")] = None,
) -> None:
    """Print a commented configuration file with all options and their defaults; given FILE, check it and print it in full."""
    from macejax.config import ConfigError, dump_config, load_config, parse_overrides, template

    if file is None and assignments:
        raise ConfigError("--set overrides options of a configuration: give FILE too.")
    typer.echo(template() if file is None else dump_config(load_config(file, parse_overrides(assignments or ()))), nl=False)
