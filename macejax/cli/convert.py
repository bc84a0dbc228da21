"""`macejax convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="Model file (.model) or training checkpoint (.pt) of mace-torch.")],
    output: Annotated[Path, typer.Argument(help="Model file to write, by custom ending in .mace.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Model file of macejax with the architecture of a training checkpoint, which does not say it."),
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32 or float64; that of the file where it is not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Turn a model file of mace-torch into one of macejax. Needs neither torch nor mace-torch, and runs nothing of the file."""
    import jax
    import numpy as np

    from macejax.checkpoint.model_file import DTYPES, load_model, save_model
    from macejax.checkpoint.torch_file import load_torch

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype must be {' or '.join(DTYPES)}, not {dtype!r}.")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} is there already: choose another name, or --overwrite.")
    model = load_torch(file, None if config is None else load_model(config).config)
    if dtype is not None:
        model = model._replace(params=jax.tree.map(lambda x: np.asarray(x, dtype), model.params))
    save_model(output, model)
    typer.echo(
        f"{output}: {model.config.model}, {model.config.hidden_irreps}, {sum(x.size for x in jax.tree.leaves(model.params))} parameters"
    )
