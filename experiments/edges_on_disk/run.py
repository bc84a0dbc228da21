"""How much memory does a data set need whose edges are on disk, and what do its batches cost? Rattled crystals, in processes of their own.

python experiments/edges_on_disk/run.py --structures 20000 --folder /tmp/edges
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from ase.build import bulk

from macejax.data.graph import build_graphs
from macejax.data.loader import Loader
from macejax.data.read import from_atoms
from macejax.data.structure import Structure

CUTOFF, ATOMS = 6.0, 32
STEPS, BATCH = 50, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=20000)
    parser.add_argument("--folder", type=Path, required=True, help="for the edges; must be empty")
    parser.add_argument("--measure", choices=("structures", "memory", "disk"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    if options.structures < 2 * BATCH:
        parser.error(f"--structures must be {2 * BATCH} or more, for two batches.")
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder {options.folder} is not empty.")
    print("| edges | ready after | memory | of it anonymous | batch |\n|---|---|---|---|---|")
    command = [sys.executable, __file__, "--structures", str(options.structures), "--folder", str(options.folder), "--measure"]
    lines = (("none: structures alone", "structures"), ("in memory", "memory"), ("written to disk", "disk"), ("found on disk", "disk"))
    for name, kind in lines:
        found = json.loads(subprocess.run([*command, kind], check=True, stdout=subprocess.PIPE, text=True).stdout)
        batch = f"{found['batch']:.1f} ms" if found["batch"] else ""
        print(f"| {name} | {found['ready']:.0f} s | {found['peak']:.0f} MB | {found['anonymous']:.0f} MB | {batch} |", flush=True)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"\n{options.structures} structures of {ATOMS} atoms, {size / 1e6:.0f} MB on disk.")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds until the graphs are there, MB that the process has after some batches, and ms for a batch."""
    structures = crystals(options.structures)
    if options.measure == "structures":
        return {"ready": 0.0, "peak": peak(), "anonymous": anonymous(), "batch": 0.0}
    begun = time.perf_counter()
    graphs = build_graphs(structures, [14, 32], CUTOFF, edge_folder=options.folder if options.measure == "disk" else None)
    loader = Loader(graphs, BATCH, seed=0, prefetch=0)
    ready = time.perf_counter() - begun
    times = []
    for _, _ in zip(range(STEPS), steps := loader.epoch(0), strict=False):
        times.append(time.perf_counter())
    steps.close()
    return {"ready": ready, "peak": peak(), "anonymous": anonymous(), "batch": 1000 * float(np.median(np.diff(times)))}


def crystals(count: int) -> list[Structure]:
    """Silicon with germanium, each rattled and strained otherwise, with energies and forces."""
    cell = bulk("Si", cubic=True) * (2, 2, 1)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        atoms = cell.copy()
        atoms.numbers[rng.integers(len(atoms), size=4)] = 32
        atoms.set_cell(atoms.cell.array * rng.uniform(0.95, 1.05), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        found.append(from_atoms(atoms)._replace(energy=0.0, forces=np.zeros((len(atoms), 3))))
    return found


def peak() -> float:
    """Largest resident set so far (MB), pages of files among it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def anonymous() -> float:
    """Resident memory that belongs to no file (MB), which alone must fit."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main()
