"""Where the time of energy and forces goes: time per kernel, or per loop on a CPU, on the device that JAX finds.

python experiments/bench/hotspots.py water-1536 [--model L1] [--dtype float32] [--top 30] [--plain] [--table] [--loop 100]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jraph
import numpy as np
import systems
from cases import CUTOFF, MODELS, config_of

import macejax
from macejax.data.batch import capacity_for
from macejax.data.read import from_atoms
from macejax.ops import neighbor_sum

REPEATS = 7


def main() -> None:
    """Median of several calls, memory, then the kernels that took longest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", nargs="+")
    parser.add_argument("--model", choices=MODELS, default="L1")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--top", type=int, default=30, help="kernels to show")
    parser.add_argument("--precision", default="highest", help="of matrix products: highest, TF32_TF32_F32_X3, TF32_TF32_F32")
    parser.add_argument("--table", action="store_true", help="splines for the radial networks")
    parser.add_argument("--plain", action="store_true", help="without the kernels for CUDA")
    parser.add_argument("--loop", type=int, default=0, help="also time one evaluation of so many in one compiled loop")
    options = parser.parse_args()
    if options.plain:
        neighbor_sum.use_kernels(False)
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    for system in options.system:
        measure(system, options)


def setup(system: str, model: str, dtype: str) -> tuple[macejax.Model, jraph.GraphsTuple]:
    """A model with random weights, and the structures of a system as a batch on the host."""
    structures = [from_atoms(frame) for frame in systems.make(system)]
    elements = sorted({int(z) for structure in structures for z in structure.numbers})
    graphs = [macejax.build_graph(structure, elements, CUTOFF) for structure in structures]
    batch = macejax.batch(graphs, capacity_for(graphs, classes=4), dtype)
    return macejax.init_model(config_of(MODELS[model], elements), jax.random.key(0), np.dtype(dtype)), batch


def measure(system: str, options: argparse.Namespace) -> None:
    model, batch = setup(system, options.model, options.dtype)
    exact_model, batch = model, jax.device_put(batch)
    if options.table:
        model = macejax.tabulate(model)
    predict = jax.jit(partial(macejax.predict, macejax.build(model.config, matmul_precision=options.precision).apply))
    begun = time.perf_counter()
    lowered = predict.lower(model.params, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    loop = _loop(predict, options.loop).lower(model.params, batch).compile() if options.loop else None

    def call() -> None:
        jax.block_until_ready(compiled(model.params, batch))

    atoms = int(np.sum(batch.nodes["mask"]))
    median = _median(call)
    more = ""
    if loop is not None:
        each = _median(lambda: jax.block_until_ready(loop(model.params, batch))) / options.loop
        more = f"{1000 * each:.2f} ms in a loop, "
    if options.precision != "highest" or options.table:
        exact = jax.jit(partial(macejax.predict, macejax.build(exact_model.config).apply))(exact_model.params, batch).forces[:atoms]
        difference = np.abs(compiled(model.params, batch).forces[:atoms] - exact).max() / np.sqrt(np.mean(exact**2))
        more += f"{options.precision}{', table' * options.table}: largest error of a force {difference:.1e} rms, "
    plain = " plain" if options.plain else ""
    print(
        f"{jax.devices()[0].device_kind} {system} {options.model} {options.dtype}{plain}: {1000 * median:.2f} ms, "
        f"{1e6 * median / atoms:.2f} us/atom, {more}{atoms} atoms, {len(batch.senders) // len(batch.nodes['species'])} slots, "
        f"lowering {traced - begun:.1f} s, compile {ended - traced:.1f} s, "
        f"temporaries {compiled.memory_analysis().temp_size_in_bytes / 2**20:.0f} MB",
        flush=True,
    )
    if options.top:
        for name, (seconds, count) in kernels(call, REPEATS).most_common(options.top):
            print(f"  {1000 * seconds:9.3f} ms {count:6.0f}  {name}")


def _median(call: Callable[[], object]) -> float:
    """Seconds of a call, the first apart."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _loop(predict: Callable[..., macejax.Prediction], steps: int) -> Callable[..., jax.Array]:
    """Positions that move by next to nothing, as dynamics would move them: nothing waits for the host between evaluations."""

    @jax.jit
    def loop(params: dict, batch: jraph.GraphsTuple) -> jax.Array:
        def move(_: int, positions: jax.Array) -> jax.Array:
            return positions + 1e-12 * predict(params, batch._replace(nodes={**batch.nodes, "positions": positions})).forces

        return jax.lax.fori_loop(0, steps, move, batch.nodes["positions"])

    return loop


def kernels(call: object, repeats: int) -> Counter:
    """(seconds, number) per call of every kernel, by name."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(repeats):
                call()
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        seconds: Counter = Counter()
        for plane in data.planes:
            if jax.default_backend() != "cpu" and not plane.name.startswith("/device"):
                continue
            for line in plane.lines:
                if line.name.startswith(("XLA Modules", "XLA Ops", "Steps", "Framework", "Source")):
                    continue  # the same time again, in other words
                for event in line.events:
                    if event.name.startswith("$"):  # a line of Python
                        continue
                    old = seconds.get(event.name, (0.0, 0.0))
                    seconds[event.name] = (old[0] + event.duration_ns / 1e9 / repeats, old[1] + 1 / repeats)
    return seconds


if __name__ == "__main__":
    main()
