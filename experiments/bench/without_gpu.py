"""Compile energy and forces for an NVIDIA H200 that is not there: kernels per call, memory, and the optimised HLO.

python experiments/bench/without_gpu.py water-192 [silicon-216000 ...] [--model L1] [--dtype float32] [--plain] [--steps] [--hlo FOLDER]

With `--steps` it is the loop of molecular dynamics on the device (NVE), and kernels are those of a step in which the list stays.

Needs jax for CUDA (jax[cuda13]), no GPU. Matrix products are not tuned, for nothing runs: their kernels, and so the memory for their
work, may be others than on the device.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"

import jax  # noqa: E402  (the lines above must come first)
import numpy as np  # noqa: E402
import systems  # noqa: E402
from cases import MODELS  # noqa: E402
from hotspots import setup  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding, use_abstract_mesh  # noqa: E402

import macejax  # noqa: E402
from macejax.ops import blocks, neighbor_sum  # noqa: E402
from macejax.simulate import driver  # noqa: E402
from macejax.simulate.ensemble import Ensemble, settings_of  # noqa: E402
from macejax.simulate.integrators import nothing  # noqa: E402
from macejax.simulate.md import thermalize  # noqa: E402
from macejax.simulate.program import advance  # noqa: E402
from macejax.simulate.system import species_of  # noqa: E402

MEMORY = 151397597184  # bytes of the device, of which jax takes three quarters
# What XLA asks of a device to compile for it, as the driver tells it on an H200.
H200 = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 device_memory_size: {MEMORY}
  cuda_compute_capability {{ major: 9 }}
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "NVIDIA H200"
"""
NO_KERNELS = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")  # of HLO


def main() -> None:
    """One line for each system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", nargs="+")
    parser.add_argument("--model", choices=MODELS, default="L1")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--plain", action="store_true", help="without the kernels for CUDA")
    parser.add_argument("--steps", action="store_true", help="a run of molecular dynamics, not one call")
    parser.add_argument("--hlo", type=Path, help="folder for the optimised programs")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.dtype == "float64" or options.steps)  # positions of a run are float64
    neighbor_sum.use_kernels(not options.plain)
    topology = topologies.get_topology_desc(platform="cuda", target_config=H200, topology="1x1x1")
    for system in options.system:
        model, batch = setup(system, options.model, options.dtype)
        begun = time.perf_counter()
        function, arguments = run_of(system, model) if options.steps else call_of(model, batch)
        compiled = compile_for(topology.devices[0], function, arguments)
        seconds, memory = time.perf_counter() - begun, compiled.memory_analysis()
        text, atoms = compiled.as_text(), int(np.sum(batch.nodes["mask"]))
        found = kernels(text, of_loop=options.steps)
        print(
            f"NVIDIA H200 {system} {options.model} {options.dtype}{' plain' * options.plain}: {sum(found.values())} kernels "
            f"{'in a step' if options.steps else 'outside of loops'} "
            f"({', '.join(f'{number} {kind}' for kind, number in found.most_common())}), {atoms} atoms, "
            f"{memory.temp_size_in_bytes / 1e9:.2f} GB of temporaries, {memory.argument_size_in_bytes / 1e9:.2f} of arguments, "
            f"lowered and compiled in {seconds:.0f} s",
            flush=True,
        )
        if options.hlo:
            options.hlo.mkdir(parents=True, exist_ok=True)
            (options.hlo / f"{system}-{options.model}.txt").write_text(text)


def call_of(model: macejax.Model, batch: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Energy and forces as a function, and its arguments."""
    return jax.jit(partial(macejax.predict, macejax.build(model.config).apply)), (model.params, batch)


def run_of(system: str, model: macejax.Model) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The loop of molecular dynamics as a function, and its arguments."""
    (atoms,) = systems.make(system)
    thermalize(atoms, 300.0, np.random.default_rng(0))
    species, free = species_of(atoms.numbers, model.config.elements), np.ones((len(atoms), 3), bool)
    state, rows = driver._start(atoms, model.config.cutoff, 0.5, Ensemble("nve"), 0, free)
    settings = settings_of(Ensemble("nve"), atoms.get_masses(), free)
    function = partial(advance, macejax.build(model.config).apply, nothing)
    return jax.jit(function), (model.params, species, settings, state, rows, np.int32(100), np.float64(np.inf))


def compile_for(device: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """A function compiled for a device that need not be there."""
    sharding = SingleDeviceSharding(device)
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), arguments)
    there, bytes_there = jax.default_backend, blocks._device_bytes
    # Sizes of blocks are chosen by the device that computes, which jax takes for a CPU here.
    jax.default_backend, blocks._device_bytes = lambda: "gpu", lambda: int(blocks._DEVICE_SHARE * 0.75 * MEMORY)
    try:
        with use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(device.device_kind, None, "cuda"))):
            return function.lower(*arguments).compile()
    finally:
        jax.default_backend, blocks._device_bytes = there, bytes_there


def kernels(hlo: str, of_loop: bool = False) -> Counter:
    """How many operations of the entry computation, or of the body of its loop, are kernels, by kind."""
    found: Counter = Counter()
    lines = hlo[hlo.index("\nENTRY ") :].splitlines()
    if of_loop:
        (body,) = (re.search(r"body=(%[\w.\-]+)", line)[1] for line in lines if " while(" in line)
        lines = hlo[hlo.index(f"\n{body} ") :].split("\n}")[0].splitlines()
    for line in lines:
        operation = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", re.sub(r"/\*.*?\*/", "", line))
        if operation and operation[1] not in NO_KERNELS:
            found[operation[1]] += 1
    return found


if __name__ == "__main__":
    main()
