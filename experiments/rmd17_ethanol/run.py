"""Ethanol of rMD17, the same recipe in macejax and in mace-torch: train both, tabulate test errors, compare the first losses.

python run.py train --program macejax --data FOLDER --out FOLDER --seeds 1 2 3 --epochs 20
python run.py train --program mace-torch ...                (needs mace-torch)
python run.py losses --data FOLDER                          (needs mace-torch)
python run.py table --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = ("macejax", "mace-torch")
TRAIN, TEST = "rmd17_ethanol_train_01.xyz", "rmd17_ethanol_test_01.xyz"
# config.yaml says the same to macejax. --loss ef ignores the weights, which are here because the reference run was given them.
RECIPE = (
    "--name ref --model MACE --E0s average --num_channels 32 --max_L 1 --correlation 3 --r_max 5.0 --batch_size 5 --lr 0.01 --ema "
    "--ema_decay 0.99 --loss ef --energy_weight 1 --forces_weight 1000 --valid_fraction 0.05 --energy_key energy --forces_key forces "
    "--error_table TotalMAE"
).split()
NUM_ATOMS = 9
LARGEST_LOSS_ERROR = 1e-8  # relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train with one program")
    train.add_argument("--program", choices=PROGRAMS, default="macejax")
    train.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    train.add_argument("--epochs", type=int, default=20)
    losses = commands.add_parser("losses", help="the first losses of both programs, from the same weights, in float64")
    losses.add_argument("--steps", type=int, default=20)
    losses.add_argument("--seed", type=int, default=1)
    table = commands.add_parser("table", help="test errors of all runs that are done")
    for command in (train, losses):
        command.add_argument("--data", type=Path, required=True, help=f"folder of {TRAIN} and {TEST}")
    for command in (train, table):
        command.add_argument("--out", type=Path, default=Path("runs/rmd17_ethanol"), help="folder of the runs")
    options = parser.parse_args()
    if options.command == "train":
        for seed in options.seeds:
            run(options.program, options.data.resolve(), options.out.resolve(), seed, options.epochs)
        print_table(options.out)
    elif options.command == "losses":
        compare_losses(options.data.resolve(), options.steps, options.seed)
    else:
        print_table(options.out)


def run(program: str, data: Path, out: Path, seed: int, epochs: int) -> None:
    """One training, in a folder of its own, from scratch."""
    folder = out / program / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = {"--train": str(data / TRAIN), "--test": str(data / TEST)}
    if program == "macejax":
        command = ["macejax", "train", str(HERE / "config.yaml"), *(part for pair in files.items() for part in pair)]
        command += ["--name", folder.name, "--seed", str(seed), "--epochs", str(epochs), "--set", f"run.directory={folder.parent}"]
    else:
        command = ["mace_run_train", *RECIPE, *(part for name, file in files.items() for part in (f"{name}_file", file))]
        command += ["--default_dtype", "float32", "--seed", str(seed), "--max_num_epochs", str(epochs)]
    print("$", " ".join(command), flush=True)
    with open(folder / "log.txt", "w") as log:
        subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment())


def compare_losses(data: Path, steps: int, seed: int) -> None:
    """Print the losses of both programs, and fail where they differ."""
    command = [sys.executable, "-W", "ignore", str(HERE / "first_losses.py"), "--steps", str(steps), "--", *RECIPE, "--seed", str(seed)]
    answer = json.loads(
        subprocess.run([*command, "--train_file", str(data / TRAIN)], check=True, stdout=subprocess.PIPE, env=environment()).stdout
    )
    largest = 0.0
    for step, (reference, ours) in enumerate(zip(answer["mace-torch"], answer["macejax"], strict=True), start=1):
        error = abs(ours - reference) / abs(reference)
        largest = max(largest, error)
        print(f"{step:3d}  {reference:.15f}  {ours:.15f}  {error:.1e}")
    print(f"largest relative difference {largest:.1e}, allowed {LARGEST_LOSS_ERROR:.0e}")
    if not largest <= LARGEST_LOSS_ERROR:
        sys.exit(1)


def print_table(out: Path) -> None:
    """Test MAE of the total energy and of forces of every finished run, in Markdown, and the means over seeds."""
    print("\n| program | seed | energy MAE (meV) | force MAE (meV/A) | median time per epoch (s) |\n|---|---|---|---|---|")
    for program, read in zip(PROGRAMS, (read_macejax, read_mace_torch), strict=True):
        rows = []
        for folder in sorted((out / program).glob("seed*")):
            if row := read(folder):
                rows.append(row)
                print(f"| {program} | {folder.name[4:]} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.1f} |")
        if rows:
            energy, forces, seconds = (statistics.mean(column) for column in zip(*rows, strict=True))
            print(f"| **{program}** | mean | **{energy:.2f}** | **{forces:.2f}** | {seconds:.1f} |")


def read_macejax(folder: Path) -> tuple[float, float, float] | None:
    """(energy MAE in meV, force MAE in meV/Angstrom, seconds per epoch, validation left out) of a finished run."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    final = [line["errors"]["all"] for line in lines if line["kind"] == "final" and line["subset"] == "test"]
    if not final:
        return None
    seconds = statistics.median(line["seconds"] for line in lines if line["kind"] == "epoch")
    return 1000 * NUM_ATOMS * final[-1]["energy_per_atom"]["mae"], 1000 * final[-1]["forces"]["mae"], seconds


def read_mace_torch(folder: Path) -> tuple[float, float, float] | None:
    """The same of a run of mace_run_train; its log tells epochs with their validation, which is 5 % of the structures."""
    log = (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""
    final = re.findall(r"\|\s+Default_Default\s+\|\s+([\d.]+)\s+\|\s+([\d.]+)\s+\|", log)
    if not final:
        return None
    stamps = [datetime.fromisoformat(stamp) for stamp in re.findall(r"(\S+ \S+) INFO: Epoch \d+:", log)]
    seconds = [(later - earlier).total_seconds() for earlier, later in zip(stamps[:-1], stamps[1:], strict=True)]
    return float(final[-1][0]), float(final[-1][1]), statistics.median(seconds) if seconds else float("nan")


def environment() -> dict[str, str]:
    """This environment with the programs beside this Python first in the path."""
    paths: Sequence[str] = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    return {**os.environ, "PATH": os.pathsep.join(paths)}


if __name__ == "__main__":
    main()
