"""How fast is a step of molecular dynamics, on the device, through ASE and in mlip, and what does it cost beyond the forces?

    python experiments/md_engines/run.py [--mlip PYTHON] [--output FILE.json]        `make bench BENCH=md` is this

One model with random weights and small energies, so that nothing explodes; NVE. Each engine is a process of its own; for every system
they take turns in random order, after one turn to warm up, and medians are given. A turn is the difference of 2 n and n steps, over n: what
a run costs once is no part of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import ase.io
import jax
import numpy as np

import macejax
from macejax.simulate.md import thermalize

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "bench"))
from process import Worker  # noqa: E402
from systems import make  # noqa: E402

TIMESTEP, KELVIN, SKIN, NEIGHBORS = 0.5, 300.0, 0.5, 20.0
STEPS = {"aspirin-1": 200, "water-192": 40, "water-1536": 3}  # the slowest engine takes 4 s for one of the last
ENGINES = ("bare forces", "device", "device, no model", "ASE + macejax", "ASE + mace-torch", "mlip")


def main() -> None:
    """Run all systems, print a line for each engine, write everything as JSON and the table of README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(STEPS))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--mlip", help="python of an environment with mlip, which cannot share ours")
    parser.add_argument("--steps", type=int, help="n, instead of what suits the system")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--cache", type=Path, help="folder for compiled programs, kept from run to run")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    there = [name for name in options.engines if _installed(name, options)]
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "rows": []}
    result |= {name: getattr(options, name) for name in ("channels", "cutoff", "dtype")}
    result["rows"] = _earlier(options.output, result)
    for name in options.systems:
        new = measure(name, there, options)
        rows = [row for row in result["rows"] if row["system"] != name] + new
        result["rows"] = sorted(rows, key=lambda row: row["atoms"])  # stable: engines keep their order
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(result, indent=1) + "\n")
            fill(HERE / "README.md", table(result["rows"]))


def _earlier(output: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that the output has from an earlier run of the same model on the same device: systems can be measured one at a time."""
    if output is None or not output.exists():
        return []
    old = json.loads(output.read_text())
    return old["rows"] if all(old.get(name) == value for name, value in settings.items() if name != "rows") else []


def measure(system: str, engines: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every engine; one that fails, for want of memory, say, has its error."""
    (atoms, *_), steps = make(system), options.steps or STEPS.get(system, 20)
    thermalize(atoms, KELVIN, np.random.default_rng(0))
    elements = sorted({int(z) for z in atoms.numbers})
    settings = {"elements": elements, "cutoff": options.cutoff, "neighbors": NEIGHBORS, "channels": options.channels}
    command = {"do": "prepare", "settings": settings, "dtype": options.dtype, "timestep": TIMESTEP, "temperature": KELVIN, "skin": SKIN}
    rows: list[dict[str, Any]] = []
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        command |= {"structures": f"{folder}/start.xyz", "model": f"{folder}/m.model", "answer": f"{folder}/answer.npz", "episode": steps}
        ase.io.write(command["structures"], atoms, format="extxyz")
        macejax.save(command["model"], model_of(settings))
        try:
            for name in engines:
                python, script = (options.mlip, "with_mlip.py") if name == "mlip" else (sys.executable, "with_macejax.py")
                worker = Worker(name, python, HERE / script, str(options.cache or f"{folder}/cache"))
                try:
                    first = worker.ask(command | {"engine": name})["compile_s"]
                except RuntimeError as error:
                    worker.stop()
                    print(error, file=sys.stderr, flush=True)
                    rows.append({"system": system, "atoms": len(atoms), "engine": name, "error": str(error)})
                    continue
                print(f"{system}: {name} took {first:.1f} s for its first step.", file=sys.stderr, flush=True)
                workers[name] = worker
                rows.append(
                    {"system": system, "atoms": len(atoms), "engine": name, "steps": steps, "first_s": first, "ms": [], "cores_ms": []}
                )
            _take_turns(workers, [row for row in rows if "ms" in row], steps, options.repeats)
        finally:
            for worker in workers.values():
                worker.stop()
    _conclude(rows)
    return rows


def _take_turns(workers: dict[str, Worker], rows: list[dict[str, Any]], steps: int, repeats: int) -> None:
    order, rng = list(rows), random.Random(0)
    for turn in range(-1, repeats):
        rng.shuffle(order)
        for row in order:
            one, two = (workers[row["engine"]].ask({"do": "time", "steps": k * steps}) for k in (1, 2))
            if turn >= 0:  # the first round warms up
                row["ms"].append(1000 * (two["seconds"] - one["seconds"]) / steps)
                row["cores_ms"].append(1000 * (two["cores"] - one["cores"]) / steps)


def _conclude(rows: list[dict[str, Any]]) -> None:
    """Medians, and how much longer than the bare forces of the same run a step takes."""
    timed = [row for row in rows if "ms" in row]
    base = next((statistics.median(row["ms"]) for row in timed if row["engine"] == "bare forces"), None)
    for row in timed:
        row |= {
            "median_ms": statistics.median(row["ms"]),
            "median_cores_ms": statistics.median(row["cores_ms"]),
            "load": os.getloadavg()[0],
        }
        row["steps_per_second"] = 1000 / row["median_ms"]
        if base is not None and row["engine"] != "mlip":  # whose weights, and so whose forces, are others
            row["overhead"] = row["median_ms"] / base - 1
        spread, beyond = max(row["ms"]) - min(row["ms"]), f"{100 * row['overhead']:+.1f} %" if "overhead" in row else ""
        print(f"{row['system']:>14} {row['engine']:>18} {row['median_ms']:9.2f} ms (spread {spread:.2f}) {beyond}", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds per step of every engine and system, and what is beyond the bare forces."""
    systems = list(dict.fromkeys((row["system"], row["atoms"]) for row in rows))
    lines = ["| engine | " + " | ".join(f"{name}, {atoms} atoms" for name, atoms in systems) + " |", "|---" * (len(systems) + 1) + "|"]
    for engine in dict.fromkeys(row["engine"] for row in rows):
        cells = []
        for name, _ in systems:
            row = next((row for row in rows if row["engine"] == engine and row["system"] == name), {})
            beyond = f" ({100 * row['overhead']:+.1f} %)" if "overhead" in row and engine not in ("bare forces", "device, no model") else ""
            cells.append(f"{row['median_ms']:.3g} ms{beyond}" if "median_ms" in row else "failed" if "error" in row else "")
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def fill(path: Path, text: str) -> None:
    """Put the table between its marks."""
    begin, end = "<!-- engines: written by run.py -->", "<!-- end of engines -->"
    old = path.read_text(encoding="utf-8")
    path.write_text(re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n{text}{end}", old, flags=re.DOTALL), "utf-8")


def _installed(engine: str, options: argparse.Namespace) -> bool:
    missing = {"mlip": not options.mlip, "ASE + mace-torch": importlib.util.find_spec("mace") is None}.get(engine, False)
    if missing:
        print(f"{engine} is left out: {'--mlip names no python' if engine == 'mlip' else 'mace-torch is not installed'}.", flush=True)
    return not missing


def model_of(settings: dict[str, Any]) -> macejax.Model:
    """Two layers, l_max 3, L 1, correlation 3."""
    config = macejax.ModelConfig(
        elements=settings["elements"],
        e0s=(0.0,) * len(settings["elements"]),
        cutoff=settings["cutoff"],
        hidden_irreps=f"{settings['channels']}x0e + {settings['channels']}x1o",
        l_max=3,
        correlation=3,
        avg_num_neighbors=settings["neighbors"],
        model="ScaleShiftMACE",
        scale=0.01,
    )
    return macejax.init_model(config, jax.random.key(0))


if __name__ == "__main__":
    main()
