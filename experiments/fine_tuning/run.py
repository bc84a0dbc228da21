"""How much does it save to start from a model of another level of theory? The same few structures, from its weights and from random ones.

python experiments/fine_tuning/run.py MODEL TRAIN.xyz TEST.xyz --counts 20 50 200

The structures are taken evenly from TRAIN, a fifth of them to validate; errors are of all of TEST. From the model, E0s are estimated; from
random weights, of the same architecture, they are averages.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import macejax
from macejax.checkpoint.load import load_with_extra
from macejax.cli.process import set_up_jax
from macejax.config import ModelConfig, ModelSection, load_config
from macejax.data.labels import Keys
from macejax.data.write import write
from macejax.train.log import read_metrics
from macejax.train.loop import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model file, or name of a published model")
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50, 200], help="structures to train and validate with")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01], help="learning rates")
    parser.add_argument("--freeze", nargs="*", default=[], help="parts to freeze in further runs from the model, such as interactions")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--energy-key", default="energy")
    parser.add_argument("--forces-key", default="forces")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    set_up_jax(options.dtype)
    keys = Keys(energy=options.energy_key, forces=options.forces_key)
    structures, test = macejax.read(options.train, keys), macejax.read(options.test, keys)
    from_model = {"start.model": options.model, "data.e0s": "estimated"}
    starts = {"the model": from_model, "random": architecture_of(macejax.load(options.model).config)}
    if options.freeze:
        frozen = {f"optimizer.rate_factors.{part}": 0.0 for part in options.freeze}
        starts[f"the model, {' and '.join(options.freeze)} frozen"] = from_model | frozen
    print(
        "| structures | start | learning rate | energy MAE (meV/atom) | force MAE (meV/A) | at the start | epoch of the best |\n"
        "|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "test.xyz", test)
        for count in options.counts:
            write(folder / "train.xyz", [structures[number * len(structures) // count] for number in range(count)])
            for start, given in starts.items():
                for rate in options.rates:
                    print(
                        f"| {count} | {start} | {rate:g} | {run(folder, options, given | {'optimizer.learning_rate': rate})} |", flush=True
                    )


def architecture_of(config: ModelConfig) -> dict[str, Any]:
    """Options of a run from random weights that gives a model like this one."""
    derived = ("model", "heads", "elements", "avg_num_neighbors", "scale", "shift")
    names = [name for name in ModelSection.model_fields if name in ModelConfig.model_fields and name not in derived]
    dumped = config.model_dump(mode="json")
    return {f"model.{name}": dumped[name] for name in names} | {"model.model": "ScaleShiftMACE", "data.e0s": "average"}


def run(folder: Path, options: argparse.Namespace, given: dict[str, Any]) -> str:
    """Train, and the cells of the row: MAE of energies (meV/atom) and forces (meV/Angstrom), that of forces in validation before the first
    step, and the epoch of the best weights."""
    number = len(list(folder.glob("run*")))
    values = {
        "run.name": f"run{number}",
        "run.directory": str(folder),
        "run.epochs": options.epochs,
        "run.dtype": options.dtype,
        "run.ema_decay": 0.99,
        "data.train": str(folder / "train.xyz"),
        "data.test": str(folder / "test.xyz"),
        "data.valid_fraction": 0.2,
        "data.batch_size": 5,
        "optimizer.schedule.kind": "cosine",
    }
    outcome = train(load_config(None, values | given), quiet=True)
    lines = read_metrics(folder / f"run{number}")
    errors, first = last_errors(lines), next(line for line in lines if line["kind"] == "validation")
    best = load_with_extra(outcome.model_path)[1]["epoch"]
    return (
        f"{1000 * errors['energy_per_atom']['mae']:.1f} | {1000 * errors['forces']['mae']:.0f} | {1000 * first['forces_mae']:.0f} | {best}"
    )


def last_errors(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Errors on the test set."""
    return [line["errors"]["all"] for line in lines if line["kind"] == "final" and line["subset"] == "test"][-1]


if __name__ == "__main__":
    main()
