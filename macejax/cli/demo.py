"""`macejax demo`."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder to write to; <output>/ethanol must not hold a run yet.")
    ] = "demo_run",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Change an option of the training run: section.option=value.")
    ] = None,
    md_steps: Annotated[int, typer.Option(min=100, help="Steps of 0.25 fs of the simulation.")] = 20000,
) -> None:
    """Train on the bundled ethanol, test on a trajectory never seen, simulate 5 ps. Exits with 1 where the result is not good enough."""
    from macejax.cli.process import set_up_jax
    from macejax.config import parse_overrides
    from macejax.demo import demo_config, run_demo

    config = demo_config(output, parse_overrides(assignments or ()))
    set_up_jax(config.run.precision.parameters)
    result = run_demo(config, md_steps=md_steps, say=typer.echo)
    if failures := result.failures():
        typer.echo(f"macejax: {'; '.join(failures)}.", err=True)
        raise typer.Exit(1)
