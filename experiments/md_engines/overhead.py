"""What the driver costs beyond the forces, where a step is so long that processes which take turns see the machine's moods instead.

    python experiments/md_engines/overhead.py [--system water-1536] [--turns 12]

Forces alone, the driver, and the driver without a model, in one process and in random order; a turn is the difference of 8 and 2 steps,
over 6.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from run import NEIGHBORS, TIMESTEP, model_of  # noqa: E402
from systems import make  # noqa: E402
from with_macejax import ENGINES  # noqa: E402

from macejax.simulate.md import thermalize  # noqa: E402

SHORT, LONG = 2, 8  # steps
MEASURED = ("bare forces", "device", "device, no model")


def main() -> None:
    """Print every turn and the medians, of wall time and of the time of all cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="water-1536")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--channels", type=int, default=32)
    options = parser.parse_args()
    (atoms, *_) = make(options.system)
    thermalize(atoms, 300.0, np.random.default_rng(0))
    elements = sorted({int(z) for z in atoms.numbers})
    model = model_of({"elements": elements, "cutoff": 5.0, "neighbors": NEIGHBORS, "channels": options.channels})
    command = {"dtype": "float32", "timestep": TIMESTEP, "skin": 0.5}
    runs = {name: ENGINES[name](model, atoms, command) for name in MEASURED}
    for run in runs.values():
        run(1)  # compiles
    wall, cores = ({name: list[float]() for name in MEASURED} for _ in range(2))
    order, rng = list(MEASURED), random.Random(0)
    for _ in range(options.turns):
        rng.shuffle(order)
        for name in order:
            marks = []
            for steps in (SHORT, LONG):
                begun = time.perf_counter(), time.process_time()
                runs[name](steps)
                marks.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
            for found, k in ((wall, 0), (cores, 1)):
                found[name].append(1000 * (marks[1][k] - marks[0][k]) / (LONG - SHORT))
        print("  ".join(f"{name} {wall[name][-1]:.1f} ms" for name in MEASURED), flush=True)
    base = statistics.median(wall["bare forces"])
    for name in MEASURED:
        median, all_cores = statistics.median(wall[name]), statistics.median(cores[name])
        print(
            f"{options.system} {name}: {median:.1f} ms ({100 * (median / base - 1):+.1f} %), all cores {all_cores:.1f} ms, "
            f"{min(wall[name]):.1f} to {max(wall[name]):.1f} ms, load {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()
