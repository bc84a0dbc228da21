"""`macejax config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from macejax.config import ModelSection


def command(
    file: Annotated[
        str | None, typer.Argument(help="A configuration to complete: it is checked and printed with every option written out.")
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Override an option of FILE: section.option=value.")] = None,
) -> None:
    """Print a commented configuration file with all options and their defaults; given FILE, check it and print it in full."""
    from macejax.config import ConfigError, dump_config, load_config, parse_overrides, template

    if file is None:
        if assignments:
            raise ConfigError("--set overrides options of a configuration: give FILE too.")
        typer.echo(template(), nl=False)
        return
    config = load_config(file, parse_overrides(assignments or ()))
    _require_model(config.model)
    typer.echo(dump_config(config), nl=False)


def _require_model(section: ModelSection) -> None:
    """Refuse an architecture that cannot be, as training would: what the section cannot know by itself, which is blocks and irreps.

    Raises:
      ConfigError: says which option, and why.
    """
    from macejax.config import ConfigError
    from macejax.model.model import build  # imports jax, which the template does without

    try:
        build(section.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=1.0, scale=1.0, shift=0.0))
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
