"""`macejax train`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

File = Annotated[str | None, typer.Argument(help="YAML file of options; see `macejax config`.")]
Files = list[str] | None


def command(
    config: File = None,
    train: Annotated[Files, typer.Option("--train", help="Training file; may be given several times. (data.train)")] = None,
    valid: Annotated[
        Files, typer.Option("--valid", help="Validation file. Without one, a part of the training set validates. (data.valid)")
    ] = None,
    test: Annotated[Files, typer.Option("--test", help="Test file, evaluated at the end. (data.test)")] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Fine-tune: model file, or name of a published model, to start from. (start.model)"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run, its folder and its model file. (run.name)")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs. (run.epochs)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Structures per step, over all devices. (data.batch_size)")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. (optimizer.learning_rate)")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and validation split. (run.seed)")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64; tf32x3, tf32 (GPU), bf16 (GPU, TPU). (run.dtype)")] = None,
    device_count: Annotated[int | None, typer.Option(help="Local devices to use, all by default. (run.device_count)")] = None,
    assignments: Annotated[
        Files, typer.Option("--set", help="Any other option: section.option=value, such as model.num_channels=32.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of this name from its newest checkpoint.")] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One of several processes; Slurm, Open MPI and TPU tell which.")
    ] = False,
    coordinator: Annotated[str | None, typer.Option(help="Several processes without a scheduler: host:port of the first one.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Several processes without a scheduler: how many.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Several processes without a scheduler: which one, from 0.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing; the metrics are in the folder of the run.")] = False,
) -> None:
    """Train a model.

    Options come from the file CONFIG, then from --set, then from the options below; `macejax config` lists them all with their help. Model
    file, metrics, checkpoints and a report go to <run.directory>/<run.name>. SIGTERM saves and stops; --resume goes on exactly there.
    """
    from macejax.cli.process import join_processes, set_up_jax
    from macejax.config import load_config, parse_overrides

    flags: dict[str, Any] = {
        "data.train": train,
        "data.valid": valid,
        "data.test": test,
        "start.model": start,
        "run.name": name,
        "run.epochs": epochs,
        "data.batch_size": batch_size,
        "optimizer.learning_rate": lr,
        "run.seed": seed,
        "run.dtype": dtype,
        "run.device_count": device_count,
    }
    overrides = parse_overrides(assignments or ()) | {option: value for option, value in flags.items() if value is not None}
    options = load_config(config, overrides)
    set_up_jax(options.run.precision.parameters)
    if distributed or coordinator or processes is not None or process is not None:
        join_processes(coordinator, processes, process)
    from macejax.train.loop import train as run  # imports jax, whose precision is set now

    run(options, resume=resume, quiet=quiet)
