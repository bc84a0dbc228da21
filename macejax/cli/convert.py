"""`macejax convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    file: Annotated[
        str,
        typer.Argument(
            help="Model file (.model) or training checkpoint (.pt) of mace-torch, model file of macejax, or name of a published model."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Model file to write, by custom ending in .mace.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Architecture of a training checkpoint, which does not say it: a model file of macejax, or YAML (.yaml) of a run, as "
            "`macejax migrate` makes it, with model.avg_num_neighbors.",
        ),
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="Keep this head alone.")] = None,
    elements: Annotated[str | None, typer.Option("--elements", help="Cut the model to these elements, such as H,C,O.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32 or float64; that of the file where it is not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Turn a model file of mace-torch into one of macejax, or cut a model to a head or some elements. Needs neither torch nor mace-torch,
    and runs nothing of the file.
    """
    import jax
    import numpy as np

    from macejax.checkpoint.load import load_model, load_with_extra
    from macejax.checkpoint.model_file import DTYPES, carried_over, save_model
    from macejax.checkpoint.torch_file import load_torch
    from macejax.cli.output import require_output
    from macejax.config import ConfigError, load_model_section
    from macejax.model.heads import select_elements, select_head

    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype must be {' or '.join(DTYPES)}, not {dtype!r}.")
    require_output(output, overwrite)
    extra: dict[str, Any] = {}
    if config is None:
        model, extra = load_with_extra(file)
    else:
        model = load_torch(file, load_model_section(config) if config.suffix.lower() in (".yaml", ".yml") else load_model(config).config)
    before = model.config
    if head is not None:
        model = select_head(model, head)
    if elements is not None:
        model = select_elements(model, elements.replace(",", " ").split())
    if dtype is not None:
        model = model._replace(params=jax.tree.map(lambda x: np.asarray(x, dtype), model.params))
    save_model(output, model, carried_over(extra, before, model.config))
    typer.echo(
        f"{output}: {model.config.model}, {model.config.hidden_irreps}, {sum(x.size for x in jax.tree.leaves(model.params))} parameters"
    )
