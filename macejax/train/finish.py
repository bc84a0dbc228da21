"""The end of a run: the best weights on every subset, the table, the model file, the report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from macejax.checkpoint.manifest import CheckpointError
from macejax.checkpoint.model_file import save_model
from macejax.checkpoint.training import restore_checkpoint
from macejax.config import ModelConfig, TrainConfig, dump_config
from macejax.data.loader import Loader
from macejax.data.pack import pack_all
from macejax.data.species import SYMBOLS
from macejax.model.model import Model
from macejax.train.log import Log, read_metrics
from macejax.train.metrics import ALL
from macejax.train.prepare import Prepared, first_params
from macejax.train.report import Content, write_report
from macejax.train.state import TrainState, eval_params
from macejax.train.table import Table, error_table, plain
from macejax.train.validate import Validation, group_sizes, parity, validate


class Best(NamedTuple):
    """The weights that did best in validation."""

    params: Any
    epoch: int  # epochs before them; 0 of a model that the run started from
    step: int


def finish(config: TrainConfig, folder: Path, prepared: Prepared, state: TrainState, stage: Any, loader: Loader, log: Log) -> Path:
    """Test the best weights, print the table, write model file and report.

    Args:
      config, folder, prepared, loader, log: of the run.
      state: its last state.
      stage: loss and eval_step of its last stage.

    Returns:
      Path of the model file.

    Raises:
      FileNotFoundError: no validation had a finite loss, so that there are no best weights.
    """
    best = _best(config, folder, prepared, state, log.warn)
    params = best.params
    results = {}
    for name, graphs in prepared.graphs.items():
        steps = pack_all(
            graphs,
            nodes=config.data.valid_batch_atoms,
            num_devices=config.run.device_count or jax.local_device_count(),
            dtype=config.run.precision.parameters,
        )
        results[name] = validate(stage.eval_step, stage.loss, params, steps, prepared.structures[name], keep_predictions=True)
        errors = {group: {kind: value._asdict() for kind, value in table.items()} for group, table in results[name].errors.items()}
        log.write("final", step=int(state.step), epoch=best.epoch, subset=name, loss=results[name].loss, errors=errors)
    table = error_table(
        {name: result.errors for name, result in results.items()}, {name: group_sizes(s) for name, s in prepared.structures.items()}
    )
    path = folder / f"{config.run.name}.mace"
    _export(config, prepared, best, path, results)
    log.say(f"\nerrors of the weights after epoch {best.epoch}, the best in validation:\n{plain(table)}\n")
    content = _content(config, folder, prepared, state, best, loader, results, table)
    write_report(folder / "report.html", content)
    log.say(f"compilations: {content.facts['compilations']}")
    log.say(f"model:  {path}\nreport: {folder / 'report.html'}")
    return path


def export_best(
    config: TrainConfig, folder: Path, prepared: Prepared, template: TrainState, path: Path, warn: Callable[[str], None]
) -> None:
    """Write the best weights so far as a model file; where no validation was finite, warn and write none."""
    try:
        best = _best(config, folder, prepared, template, warn)
    except FileNotFoundError as error:
        warn(str(error))
        return
    _export(config, prepared, best, path, {})


def _best(config: TrainConfig, folder: Path, prepared: Prepared, state: TrainState, warn: Callable[[str], None]) -> Best:
    """The best weights of a run in this state; those of the model that it started from are in no checkpoint."""
    if prepared.params is not None and int(state.best_epoch) == 0:
        return Best(first_params(prepared, config), 0, 0)
    best = _best_state(folder, state, warn)
    return Best(eval_params(best), int(best.epoch), int(best.step))


def _best_state(folder: Path, template: TrainState, warn: Callable[[str], None]) -> TrainState:
    try:
        return restore_checkpoint([folder / "checkpoints" / "best"], template, warn)[0]
    except CheckpointError as error:
        warn(f"{error} The weights of the last checkpoint take the place of the best.")
        return restore_checkpoint([folder / "checkpoints" / "last"], template, warn)[0]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no validation of {folder} had a finite loss: there are no best weights, and no model is written."
        ) from None


def _export(config: TrainConfig, prepared: Prepared, best: Best, path: Path, results: dict[str, Validation]) -> None:
    errors = {
        name: {kind: [value.mae, value.rmse] for kind, value in result.errors[ALL].items() if math.isfinite(value.rmse)}
        for name, result in results.items()
    }
    origin = {} if prepared.start is None else prepared.start.origin()
    extra = {**origin, "name": config.run.name, "epoch": best.epoch, "step": best.step, "mae_rmse": errors}
    save_model(path, Model(prepared.model, best.params), extra)


def _of_heads(model: ModelConfig) -> list[str]:
    """What is said after a quantity of each head: nothing where there is one."""
    return [""] if len(model.heads) == 1 else [f" of {head}" for head in model.heads]


def _compilations(epochs: list[dict[str, Any]]) -> str:
    """How many steps were compiled until the last epoch ended; the first epochs bring new shapes, after which there should be none."""
    counts = [line.get("compilations", 0) for line in epochs]
    seconds = sum(line.get("compile_seconds", 0) for line in epochs)
    later = sum(counts[1:])
    return f"{sum(counts)} steps in {seconds:.3g} s, {later} of them after the first epoch"


def _content(
    config: TrainConfig,
    folder: Path,
    prepared: Prepared,
    state: TrainState,
    best: Best,
    loader: Loader,
    results: dict[str, Validation],
    table: Table,
) -> Content:
    history = read_metrics(folder)
    shown = "test" if "test" in results else "valid"
    errors = results[shown].errors[ALL]
    epochs = [line for line in history if line["kind"] == "epoch"]
    seconds = statistics.median(line["seconds"] for line in epochs) if epochs else float("nan")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    packing = loader.report()
    model = prepared.model
    start = {} if prepared.start is None else {"start": prepared.start.describe(model.heads, model.elements)}
    facts = {
        **start,
        "structures": ", ".join(f"{len(structures)} {name}" for name, structures in prepared.structures.items()),
        **{
            f"isolated atoms{of_head} (eV)": ", ".join(
                f"{SYMBOLS[number]} {e0:.6g}" for number, e0 in zip(model.elements, row, strict=True)
            )
            for of_head, row in zip(_of_heads(model), model.e0_table, strict=True)
        },
        "neighbours": f"{model.avg_num_neighbors:.4g}",
        **{
            f"scale, shift{of_head}": f"{scale:.4g} eV, {shift:.4g} eV"
            for of_head, scale, shift in zip(_of_heads(model), model.scales, model.shifts, strict=True)
        },
        "epochs, steps": f"{int(state.epoch)}, {int(state.step)} ({int(state.skipped)} skipped); best after epoch {best.epoch}",
        "time per epoch": f"{seconds:.3g} s of training (median), {loader.steps_per_epoch} steps",
        "batches": f"{packing['slot_efficiency']:.1%} of neighbour slots and {packing['node_efficiency']:.1%} of atom slots in use, "
        f"{packing['shapes_used']} compiled shape(s)",
        "compilations": _compilations(epochs),
        "devices": f"{config.run.device_count or jax.local_device_count()} {jax.devices()[0].device_kind}, "
        f"{jax.process_count()} process(es), "
        f"{config.run.dtype}, jax {jax.__version__}",
    }
    quantities = {
        "forces": ("meV/Å", "forces"),
        "energy_per_atom": ("meV/atom", "energy"),
        "dipole_per_atom": (f"10⁻³ {model.dipole_unit}/atom", "dipole"),
        "polarizability_per_atom": ("10⁻³/atom", "polarizability"),
    }
    cards = [
        *((f"{1000 * errors[key].mae:.3g} {unit}", f"MAE of {name}, {shown}") for key, (unit, name) in quantities.items() if key in errors),
        (f"{parameters:,}", "parameters"),
        (f"{seconds:.3g} s", "per epoch"),
    ]
    return Content(
        title=config.run.name,
        subtitle=f"{model.model}, {model.hidden_irreps}, cutoff {model.cutoff:g} Å, elements "
        f"{' '.join(SYMBOLS[number] for number in model.elements)}",
        cards=cards,
        table=table,
        history=history,
        parity={name: parity(result.predicted, prepared.graphs[name]) for name, result in results.items()},
        facts=facts,
        configuration=dump_config(config),
    )
