"""Time macejax beside mace-torch and mlip: the same structures and settings, one process each, in turns. See README.md.

python experiments/bench/run.py [--set quick|peers|sizes|family|device|further|all] [--mlip PYTHON] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import systems
from agreement import compare
from cases import CUTOFF, FAMILY, MODELS, NEIGHBORS, SETS, Case, config_of
from floor import matmul_rate, stream_rate
from process import Worker

HERE = Path(__file__).parent
SLOW = 10.0  # s; a program that takes longer for one call is timed once


def main() -> None:
    """Run the cases, print a line for each, and write all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=SETS, default="peers", dest="chosen")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=1, help="times to go through the set, each with processes of its own")
    parser.add_argument("--mlip", help="python of an environment with mlip, which cannot share ours")
    parser.add_argument("--only", help="programs, comma-separated, instead of all that are installed")
    parser.add_argument("--systems", help="systems, comma-separated, instead of all of the set")
    parser.add_argument("--model", choices=MODELS, help="model, instead of all of the set")
    parser.add_argument(
        "--cache", type=Path, help="folder that keeps compiled programs; compiling is not timed then, and counts in the memory"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more.")
    programs = {"macejax": sys.executable}
    if importlib.util.find_spec("mace") is not None:
        programs["mace-torch"] = sys.executable
        if importlib.util.find_spec("cuequivariance_ops_torch") is not None:
            programs["mace-torch-cueq"] = sys.executable
    if options.mlip:
        programs["mlip"] = options.mlip
    if options.only:
        programs = {name: python for name, python in programs.items() if name in options.only.split(",")}
    systems_chosen = options.systems.split(",") if options.systems else None
    cases = [
        (case, programs if case.peers else {"macejax": sys.executable})
        for case in SETS[options.chosen]
        if (systems_chosen is None or case.system in systems_chosen) and options.model in (None, case.model)
    ]
    rows: list[dict[str, Any]] = []
    where = machine()
    with tempfile.TemporaryDirectory() as kept:
        for turn in range(options.rounds):
            for k, (case, found) in enumerate(cases):
                # What compiling takes, in time and memory, is known from the first round.
                row = run_case(case, found, options.repeats, options.cache or (Path(kept) if turn else None))
                if turn == 0:
                    rows.append(row)
                else:
                    _add_times(rows[k], row)
                if options.output:
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    options.output.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")


def run_case(case: Case, programs: dict[str, str], repeats: int, cache: Path | None = None) -> dict[str, Any]:
    """Prepare every program, compare what they say, then let them take turns in random order."""
    if case.model in (name for _, name, *_ in FAMILY):  # mlip has none of these
        programs = {name: python for name, python in programs.items() if name != "mlip"}
    row: dict[str, Any] = case._asdict() | {"date": date.today().isoformat(), "programs": {}}
    with tempfile.TemporaryDirectory() as folder:
        command = _command(case, folder)
        settings, model = command["settings"], command["model"]
        row["species"] = len(settings["elements"])
        workers: dict[str, Worker] = {}
        try:
            # mace-torch makes the weights; without it macejax draws its own.
            for name in sorted(programs, key=lambda name: not name.startswith("mace-torch")):
                if name == "macejax" and not Path(model).exists():
                    _draw(settings, model)
                compiles = name in ("macejax", "mlip")
                kept = str(cache or f"{folder}/{name}") if compiles else None
                worker = Worker(name, programs[name], _script(name), kept)
                extra: dict[str, Any] = {"cueq": name.endswith("cueq")}
                if name.startswith("mace-torch") and not Path(model).exists():
                    extra["write_model"] = model
                prepare = {"do": "prepare", "answer": f"{folder}/{name}.npz"} | command | extra
                try:
                    answer = worker.ask(prepare)
                    cold = answer["compile_s"]
                    if compiles and cache is None:  # once more, from the cache: the time that takes, and the memory without the compiler's
                        worker.stop()
                        worker = Worker(name, programs[name], _script(name), kept)
                        answer = worker.ask(prepare)
                except RuntimeError as error:  # out of memory, say: the others go on
                    worker.stop()
                    if name == "macejax":
                        raise
                    print(error, file=sys.stderr, flush=True)
                    row.setdefault("failed", {})[name] = str(error)
                    continue
                workers[name] = worker
                if row.setdefault("edges", answer["edges"]) != answer["edges"]:
                    raise RuntimeError(f"{case}: {name} has {answer['edges']} edges, not {row['edges']}: not timed.")
                row["atoms"] = answer["atoms"]
                row["programs"][name] = {"compile_s": None if compiles and cache else cold, "warm_s": answer["compile_s"], "times": []}
                if name == "macejax":
                    compare(row, Path(folder), str(case))
            _take_turns(workers, row, repeats)
        finally:
            for worker in workers.values():
                worker.stop()
    print(_line(row), flush=True)
    return row


def _command(case: Case, folder: str) -> dict[str, Any]:
    """What workers are told of a case, whose structures are written to a folder."""
    frames = systems.make(case.system)
    elements = sorted({int(z) for frame in frames for z in frame.numbers})
    settings = MODELS[case.model] | {"elements": elements, "cutoff": CUTOFF, "neighbors": NEIGHBORS}
    structures = f"{folder}/structures.xyz"
    for frame in frames:
        frame.info["REF_energy"] = 0.0
        frame.arrays["REF_forces"] = np.zeros((len(frame), 3))
    ase.io.write(structures, frames, format="extxyz")
    return {"dtype": case.dtype, "work": case.work, "structures": structures, "settings": settings, "model": f"{folder}/weights.mace"}


def _script(name: str) -> Path:
    return HERE / f"with_{name.removeprefix('mace-').removesuffix('-cueq')}.py"


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    import jax

    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    device = jax.devices()[0].device_kind
    versions = {
        name: importlib.metadata.version(name)
        for name in ("jax", "torch", "mace-torch")
        if importlib.util.find_spec(name.replace("mace-torch", "mace"))
    }
    return {
        "device": device,
        "cpu": f"{model}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "matmul_flops": matmul_rate(),
        "stream_bytes": stream_rate(),
    } | versions


def _draw(settings: dict[str, Any], path: str) -> None:
    import jax

    import macejax

    macejax.save(path, macejax.init_model(config_of(settings, settings["elements"]), jax.random.key(0)))


def _take_turns(workers: dict[str, Worker], row: dict[str, Any], repeats: int) -> None:
    order, rng = list(workers), random.Random(0)
    for turn in range(-1, repeats):
        rng.shuffle(order)
        for name in order:
            times = row["programs"][name]["times"]
            if turn > 0 and statistics.median(times) > SLOW:
                continue
            seconds = workers[name].ask({"do": "time"})["seconds"]
            if turn >= 0:  # the first round warms up
                times.append(seconds)
    _take_medians(row)
    for name, found in row["programs"].items():
        found |= workers[name].ask({"do": "memory"})


def _take_medians(row: dict[str, Any]) -> None:
    for found in row["programs"].values():
        found["median_ms"] = 1000 * statistics.median(found["times"])
        found["us_per_atom"] = 1000 * found["median_ms"] / row["atoms"]
        found["ns_per_edge"] = 1e6 * found["median_ms"] / row["edges"]


def _add_times(row: dict[str, Any], again: dict[str, Any]) -> None:
    """The times of another round to those of the first. Where a process finds its memory changes its speed by a tenth."""
    for name, found in again["programs"].items():
        if name in row["programs"]:
            row["programs"][name]["times"] += found["times"]
    _take_medians(row)


def _line(row: dict[str, Any]) -> str:
    parts = [f"{row['system']:14s} {row['model']:3s} {row['dtype']} {row['work']:6s} {row['atoms']:7d} atoms {row['edges']:8d} edges"]
    ours = row["programs"].get("macejax")
    for name, found in row["programs"].items():
        spread = 1000 * (max(found["times"]) - min(found["times"]))
        ratio = f" x{found['median_ms'] / ours['median_ms']:.1f}" if ours and name != "macejax" else ""
        memory = found.get("device_peak_mb", found["peak_mb"] - found["base_mb"])
        cold, warm = found["compile_s"], found["warm_s"]
        first = f"ready in {warm:.1f} s" if cold is None else f"first call {cold:.1f} s, from the cache {warm:.1f} s"
        parts.append(
            f"{name} {found['median_ms']:.1f} ms (spread {spread:.1f}){ratio}, {found['us_per_atom']:.1f} us/atom, "
            f"{found['ns_per_edge']:.0f} ns/edge, {memory:.0f} MB, {first}"
            + (f", compiled again {found['recompiles']} times" if found["recompiles"] else "")
        )
    return " | ".join(parts)


if __name__ == "__main__":
    main()
