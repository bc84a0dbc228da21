"""`macejax evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from macejax.cli.options import Dtype, Radial


def command(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    structures: Annotated[Path, typer.Argument(help="Structures: extended XYZ or anything that ASE reads.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="What the file says of the structures, and MACE_energy, MACE_forces, MACE_stress, MACE_dipole ..."
        ),
    ] = Path("evaluated.xyz"),
    keys: Annotated[list[str] | None, typer.Option("--key", help="Name of a label in the file: energy=dft_energy.")] = None,
    head: Annotated[str | None, typer.Option(help="Head for all structures, instead of the one that each names.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Precision; by default that of the model. tf32x3, tf32: GPU; bf16: GPU, TPU.")] = None,
    batch_atoms: Annotated[int, typer.Option(min=1, help="Atoms per batch and device; changes speed and memory, not results.")] = 256,
    device_count: Annotated[int | None, typer.Option(min=1, help="Local devices to use, all by default.")] = None,
    radial: Annotated[Radial, typer.Option(help="table: splines for the radial networks, forces within 1e-5 of their rms.")] = "network",
    error: Annotated[
        bool,
        typer.Option("--precision-error", help="Also evaluate in float64, without a table, and say how much energies and forces differ."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Predict a file of structures with a model, and tabulate the errors where it has labels."""
    from macejax.checkpoint.load import load_model, read_header
    from macejax.cli.output import require_output
    from macejax.cli.process import set_up_jax
    from macejax.config import ConfigError, Precision
    from macejax.config.run import read_keys
    from macejax.simulate.record import refuse_other_formats

    refuse_other_formats([output])
    require_output(output, overwrite)
    label_keys = read_keys(keys or ())
    set_up_jax(Precision.of(dtype or read_header(model)["dtype"]).parameters)
    import jax

    from macejax.data.labels import label_frames
    from macejax.data.read import read_frames
    from macejax.data.write import write
    from macejax.model.heads import select_head
    from macejax.train.evaluate import PREDICTIONS, evaluate, label_table, predictions
    from macejax.train.parallel import local_devices
    from macejax.train.table import plain

    if replaced := [key for key in label_keys if key in PREDICTIONS]:
        raise ConfigError(f"--key: the predictions would replace the labels {replaced[0]} in {output}: rename them in {structures}.")
    devices = local_devices(device_count, "--device-count")
    frames = read_frames(structures)
    labelled = label_frames(frames, label_keys, str(structures), need_labels=False)
    potential = load_model(model) if head is None else select_head(load_model(model), head)
    exact = potential
    if radial == "table":
        from macejax.model.tabulate import tabulate

        potential = tabulate(exact)
    evaluated = evaluate(potential, labelled, dtype=dtype, nodes=batch_atoms, num_devices=devices)
    info, arrays = zip(*predictions(evaluated), strict=True)
    write(output, frames, info=info, arrays=arrays)
    table = label_table(evaluated, labelled)
    typer.echo(f"{structures} has no labels to compare with." if table is None else plain(table))
    if error:
        from macejax.testing.precision import precision_error

        used = dtype or str(jax.tree.leaves(potential.params)[0].dtype)
        typer.echo(f"{used} against float64: {precision_error(potential, labelled, used, exact=exact, nodes=batch_atoms)}")
    typer.echo(f"{len(frames)} structures with predictions: {output}")
