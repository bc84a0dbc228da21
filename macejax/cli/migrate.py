"""`macejax migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[
        list[str],
        typer.Argument(help="A script that calls mace_run_train, or its YAML file (.yaml); or, after --, the command itself."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="YAML file to write, instead of standard output.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what macejax cannot do, instead of refusing it.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Turn a command line or YAML file of mace_run_train into a configuration of macejax that trains alike.

    Flags that have no meaning here, or another one on purpose, are told in a sentence each, on standard error and as comments at the head
    of the configuration. A flag that asks for something that macejax cannot do is an error (exit code 2), unless --partial.
    """
    from macejax.cli.output import require_output
    from macejax.config import ConfigError
    from macejax.config.migrate import migrate, read_command, read_source, render

    if output is not None:
        require_output(output, overwrite)
    is_file = len(source) == 1 and not source[0].startswith("-")
    migration = migrate(read_source(Path(source[0])) if is_file else read_command(source))
    if migration.refused and not partial:
        raise ConfigError("\n  ".join(("these flags cannot be translated; --partial leaves them out.", *migration.refused)))
    for sentence in (*(f"left out {sentence}" for sentence in migration.refused), *migration.notes):
        typer.echo(sentence, err=True)
    text = render(migration)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text)
