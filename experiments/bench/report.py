"""Draw the results of run.py and write the tables of the two READMEs from them.

python experiments/bench/report.py [RESULTS.json ...]     default: every file of experiments/bench/results
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from cases import FAMILY, FURTHER, PEERS, SIZES, Case
from floor import bytes_per_atom, flops_per_atom

HERE = Path(__file__).parent
WORKS = {"forces": "energy and forces", "stress": "energy, forces and stress", "step": "training step"}
HIGHEST = {"L0": 0, "L1": 1, "L2": 2, "96": 0}
CHANNELS = {"L0": 128, "L1": 128, "L2": 128, "96": 96}
COLORS = {"macejax": "tab:blue", "mace-torch": "tab:red", "mace-torch-cueq": "tab:orange", "mlip": "tab:green"}


def main() -> None:
    """Tables into README.md and experiments/bench/README.md, the plot beside the results."""
    files = [Path(name) for name in sys.argv[1:]] or sorted((HERE / "results").glob("*.json"))
    results = [json.loads(file.read_text()) for file in files]
    rows = newest(row | {"machine": result["machine"]} for result in results for row in result["rows"])
    rows, on_gpu = [row for row in rows if row["machine"]["device"] == "cpu"], [row for row in rows if row["machine"]["device"] != "cpu"]
    sets = {"peers": PEERS, "further": FURTHER, "family": FAMILY, "sizes": SIZES}
    of_sets = {name: [row for row in rows if _case(row) in cases] for name, cases in sets.items()} | {"gpu": on_gpu}
    for name, found in of_sets.items():
        if found:  # a table stays as it was where these files have nothing for it
            fill(HERE / "README.md", name, sizes(found) if name == "sizes" else table(found))
    if of_sets["peers"]:
        fill(HERE.parent.parent / "README.md", "speed", table(of_sets["peers"]))
    if rows:
        draw(rows, HERE / "results" / "sizes.png")


def newest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of several rows of one case on one kind of device, the last measured."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = _case(row), row["machine"]["device"]
        if key not in found or found[key]["date"] <= row["date"]:
            found[key] = row
    return list(found.values())


def fill(path: Path, name: str, text: str) -> None:
    """Put text between the marks of this name."""
    begin, end = f"<!-- {name}: written by experiments/bench/report.py -->", f"<!-- end of {name} -->"
    old = path.read_text(encoding="utf-8")
    new, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n{text}{end}", old, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{path} must have the marks {begin} and {end} once, not {count} times.")
    path.write_text(new, encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Times, ratios to the peers, and memory: the process's on a CPU, the device's on a GPU."""
    found = {name for row in rows for name in row["programs"]} | {"mace-torch", "mlip"}
    peers = [name for name in COLORS if name in found - {"macejax"}]
    lines = [f"| work | macejax | {' | '.join(peers)} | memory |", "|---" * (len(peers) + 3) + "|"]
    for row in rows:
        ours = row["programs"]["macejax"]
        cells = [f"{ours['median_ms']:.3g} ms"]
        memory = [_memory(ours)]
        for name in peers:
            found = row["programs"].get(name)
            cells.append(f"{found['median_ms']:.3g} ms ({found['median_ms'] / ours['median_ms']:.1f}x)" if found else "")
            memory.append(_memory(found) if found else "-")
        precision = "" if row["dtype"] == "float32" else ", float64"
        work = f"{WORKS[row['work']]}, {row['system']}, {row['model']}{precision}"
        lines.append(f"| {work} | {' | '.join(cells)} | {' / '.join(memory)} MB |")
    return "\n".join(lines) + "\n"


def _memory(found: dict[str, Any]) -> str:
    return f"{found.get('device_peak_mb', found['peak_mb'] - found['base_mb']):.0f}"


def sizes(rows: list[dict[str, Any]]) -> str:
    """Time and memory against the number of atoms."""
    lines = ["| system, model | atoms | us/atom | memory | first call |", "|---|---|---|---|---|"]
    for row in rows:
        ours = row["programs"]["macejax"]
        first = "–" if ours["compile_s"] is None else f"{ours['compile_s']:.1f} s"
        lines.append(
            f"| {row['system'].split('-')[0]}, {row['model']} | {row['atoms']} | {ours['us_per_atom']:.0f} "
            f"| {ours['peak_mb'] - ours['base_mb']:.0f} MB | {first} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time per atom against the number of atoms, with the floor: FLOPs at the rate of a matrix product, or bytes at that of a copy."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, models, title in zip(axes, (["L0"], ["L1"]), ("128x0e", "128x0e + 128x1o"), strict=True):
        for row in rows:
            if row["model"] not in models or row["work"] != "forces" or row["dtype"] != "float32":
                continue
            for name, found in row["programs"].items():
                axis.plot(row["atoms"], found["us_per_atom"], "o", color=COLORS[name], label=name)
                axis.annotate(row["system"], (row["atoms"], found["us_per_atom"]), fontsize=5, xytext=(3, 3), textcoords="offset points")
            flops = flops_per_atom(CHANNELS[row["model"]], HIGHEST[row["model"]], row["edges"] / row["atoms"], row["species"])
            moved = bytes_per_atom(CHANNELS[row["model"]], HIGHEST[row["model"]], row["edges"] / row["atoms"])
            machine = row["machine"]  # the first results have no rate of memory, which is never what limits a CPU
            floor = max(flops / machine["matmul_flops"], moved / machine.get("stream_bytes", math.inf))
            axis.plot(row["atoms"], 1e6 * floor, "_", color="gray", label="floor of arithmetic and memory")
        axis.set(xscale="log", yscale="log", xlabel="atoms", title=f"energy and forces, float32, {title}")
        handles = {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        axis.legend(handles.values(), handles.keys(), fontsize=7)
    axes[0].set_ylabel("us per atom")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _case(row: dict[str, Any]) -> Case:
    return Case(**{field: row[field] for field in Case._fields})


if __name__ == "__main__":
    main()
