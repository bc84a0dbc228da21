"""How fast is a step of molecular dynamics, on the device and through ASE, and what does it cost beyond the forces?

    python run.py --systems aspirin-1 water-192 silicon-1536 --steps 40 --out results.jsonl

One model with random weights and small energies, so that nothing explodes; NVE at 0.5 fs, 300 K. Each engine is timed in this process after
a first run that compiles; for every system they take turns, `--repeats` times, and the fastest counts, for a machine does other work too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

import macejax
from macejax.simulate import Calculator, Ensemble, run_md, run_on_device
from macejax.simulate.list_shape import allocate, shape_for
from macejax.simulate.md import thermalize
from macejax.simulate.system import evaluate, species_of

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from systems import make  # noqa: E402

TIMESTEP, KELVIN, SKIN = 0.5, 300.0, 0.5


def model_for(atoms: Atoms, channels: int, cutoff: float) -> macejax.Model:
    """Two layers, l_max 3, L 1, correlation 3."""
    elements = tuple(sorted(set(atoms.numbers.tolist())))
    config = macejax.ModelConfig(
        elements=elements,
        e0s=(0.0,) * len(elements),
        cutoff=cutoff,
        hidden_irreps=f"{channels}x0e + {channels}x1o",
        l_max=3,
        correlation=3,
        avg_num_neighbors=20.0,
        model="ScaleShiftMACE",
        scale=0.01,
    )
    return macejax.init_model(config, jax.random.key(0), jnp.float32)


def bare(model: macejax.Model, atoms: Atoms, dtype: str) -> Callable[[int], None]:
    """Energy, forces and stress alone, as often, in one compiled loop with one list; positions move by next to nothing between calls."""
    with jax.enable_x64(True):
        a, b, c = atoms.pbc.tolist()
        cell, start = jnp.asarray(atoms.cell.array), jnp.asarray(atoms.positions)
        rows = allocate(shape_for(atoms.positions, atoms.cell.array, (a, b, c), model.config.cutoff, SKIN), start, cell)
        function = partial(evaluate, macejax.build(model.config).apply)
        params, species = jax.tree.map(lambda x: jnp.asarray(x, dtype), model.params), species_of(atoms.numbers, model.config.elements)

        @jax.jit
        def loop(params, species, positions, cell, rows, steps):
            move = lambda _, x: x + 1e-12 * function(params, species, x, cell, rows).forces  # noqa: E731
            return jax.lax.fori_loop(0, steps, move, positions)

    def run(steps: int) -> None:
        with jax.enable_x64(True):
            loop(params, species, start, cell, rows, steps).block_until_ready()

    return run


def on_device(model: macejax.Model, atoms: Atoms, dtype: str) -> Callable[[int], None]:
    options = {"ensemble": Ensemble("nve", TIMESTEP, KELVIN), "dtype": dtype, "skin": SKIN, "every": 10**9}
    return lambda steps: run_on_device(model, atoms.copy(), steps, **options) and None


def driver_alone(model: macejax.Model, atoms: Atoms, dtype: str) -> Callable[[int], None]:
    """`on_device` with a potential that costs next to nothing: list, integrator and watch are what is left."""

    def free(params: dict, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        square = jnp.where(graph.edges["mask"].reshape(vectors.shape[:2]), jnp.sum(vectors**2, axis=-1), 0)
        return params["k"] * jnp.sum(square, axis=1)

    options = {"ensemble": Ensemble("nve", TIMESTEP, KELVIN), "dtype": dtype, "skin": SKIN, "every": 10**9, "site_energy": free}
    alone = model._replace(params={"k": np.float32(1e-9)})
    return lambda steps: run_on_device(alone, atoms.copy(), steps, **options) and None


def with_ase(model: macejax.Model, atoms: Atoms, dtype: str) -> Callable[[int], None]:
    calculator = Calculator(model, dtype=dtype, skin=SKIN)

    def run(steps: int) -> None:
        copy = atoms.copy()
        copy.calc = calculator
        run_md(copy, steps, timestep=TIMESTEP, temperature=KELVIN, every=10**9)

    return run


def with_torch(model: macejax.Model, atoms: Atoms, dtype: str) -> Callable[[int], None]:
    """ASE and mace-torch's calculator, with the same weights."""
    from mace.calculators import MACECalculator

    from macejax.checkpoint.torch_export import to_torch

    calculator = MACECalculator(models=[to_torch(model)], device="cpu", default_dtype=dtype)

    def run(steps: int) -> None:
        copy = atoms.copy()
        copy.calc = calculator
        VelocityVerlet(copy, TIMESTEP * units.fs).run(steps)

    return run


ENGINES = {
    "bare forces": bare,
    "device": on_device,
    "device, no model": driver_alone,
    "ASE + macejax": with_ase,
    "ASE + mace-torch": with_torch,
}


def seconds(run: Callable[[int], None], steps: int) -> np.ndarray:
    """Of the clock, and of all cores that computed; the latter means less on a GPU, and more on a CPU that others use too."""
    begun = np.array([time.perf_counter(), time.process_time()])
    run(steps)
    return np.array([time.perf_counter(), time.process_time()]) - begun


def measure(name: str, options: argparse.Namespace) -> list[dict]:
    """Milliseconds per step of every engine: of `steps` further steps, so that what a run costs once is left out."""
    atoms = make(name)[0]
    model = model_for(atoms, options.channels, options.cutoff)
    thermalize(atoms, KELVIN, np.random.default_rng(0))
    runs: dict[str, Callable[[int], None]] = {}
    for engine in options.engines:
        try:
            runs[engine] = ENGINES[engine](model, atoms, options.dtype)
        except ImportError as error:
            print(f"{engine} is left out: {error}", flush=True)
            continue
        runs[engine](1)
    found: dict[str, list[np.ndarray]] = {engine: [] for engine in runs}
    for _ in range(options.repeats):
        for engine, run in runs.items():
            found[engine].append((seconds(run, 2 * options.steps) - seconds(run, options.steps)) / options.steps)
    least = {engine: np.min(times, axis=0) for engine, times in found.items()}
    base = least.get("bare forces", np.full(2, np.nan))
    return [
        {
            "system": name,
            "atoms": len(atoms),
            "engine": engine,
            "ms_per_step": 1000 * least[engine][0],
            "cpu_ms_per_step": 1000 * least[engine][1],
            "largest_ms_per_step": 1000 * np.max(times, axis=0)[0],
            "beyond_bare_forces": (least[engine] / base - 1)[0],
            "cpu_beyond_bare_forces": (least[engine] / base - 1)[1],
            "load": os.getloadavg()[0],
            "device": jax.devices()[0].device_kind,
            **{key: getattr(options, key) for key in ("channels", "cutoff", "dtype", "steps", "repeats")},
        }
        for engine, times in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["aspirin-1", "water-192", "silicon-1536"])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cutoff", type=float, default=4.5)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--out", type=Path, help="JSON lines, appended to.")
    options = parser.parse_args()
    macejax.enable_cache()
    for name in options.systems:
        for row in measure(name, options):
            clock, cores = 100 * row["beyond_bare_forces"], 100 * row["cpu_beyond_bare_forces"]
            print(
                f"{row['system']:>14} {row['engine']:>18} {row['ms_per_step']:9.2f} ms/step ({clock:+6.1f} %), "
                f"of all cores {row['cpu_ms_per_step']:9.2f} ms ({cores:+6.1f} %)   load {row['load']:.1f}",
                flush=True,
            )
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    print(json.dumps(row), file=file)


if __name__ == "__main__":
    main()
