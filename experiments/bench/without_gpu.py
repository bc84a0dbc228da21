"""Compile energy and forces for an NVIDIA H200 that is not there: kernels per call, memory, and the optimised HLO.

python experiments/bench/without_gpu.py water-192 [silicon-216000 ...] [--model L1] [--dtype float32] [--plain] [--hlo FOLDER]

Needs jax for CUDA (jax[cuda13]), no GPU. Matrix products are not tuned, for nothing runs: their kernels, and so the memory for their
work, may be others than on the device.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"

import jax  # noqa: E402  (the lines above must come first)
import numpy as np  # noqa: E402
from cases import MODELS  # noqa: E402
from hotspots import setup  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding, use_abstract_mesh  # noqa: E402

import macejax  # noqa: E402
from macejax.ops import blocks, neighbor_sum  # noqa: E402

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
    parser.add_argument("--hlo", type=Path, help="folder for the optimised programs")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    neighbor_sum.use_kernels(not options.plain)
    topology = topologies.get_topology_desc(platform="cuda", target_config=H200, topology="1x1x1")
    for system in options.system:
        model, batch = setup(system, options.model, options.dtype)
        begun = time.perf_counter()
        compiled = compile_for(topology.devices[0], model, batch)
        seconds, memory = time.perf_counter() - begun, compiled.memory_analysis()
        text, atoms = compiled.as_text(), int(np.sum(batch.nodes["mask"]))
        found = kernels(text)
        print(
            f"NVIDIA H200 {system} {options.model} {options.dtype}{' plain' * options.plain}: {sum(found.values())} kernels outside of "
            f"loops ({', '.join(f'{number} {kind}' for kind, number in found.most_common())}), {atoms} atoms, "
            f"{memory.temp_size_in_bytes / 1e9:.2f} GB of temporaries, {memory.argument_size_in_bytes / 1e9:.2f} of arguments, "
            f"lowered and compiled in {seconds:.0f} s",
            flush=True,
        )
        if options.hlo:
            options.hlo.mkdir(parents=True, exist_ok=True)
            (options.hlo / f"{system}-{options.model}.txt").write_text(text)


def compile_for(device: Any, model: macejax.Model, batch: Any) -> Any:
    """Energy and forces, compiled for a device that need not be there."""
    sharding = SingleDeviceSharding(device)
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), (model.params, batch))
    predict = jax.jit(partial(macejax.predict, macejax.build(model.config).apply))
    there, bytes_there = jax.default_backend, blocks._device_bytes
    # Sizes of blocks are chosen by the device that computes, which jax takes for a CPU here.
    jax.default_backend, blocks._device_bytes = lambda: "gpu", lambda: int(blocks._DEVICE_SHARE * 0.75 * MEMORY)
    try:
        with use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(device.device_kind, None, "cuda"))):
            return predict.lower(*arguments).compile()
    finally:
        jax.default_backend, blocks._device_bytes = there, bytes_there


def kernels(hlo: str) -> Counter:
    """How many operations of the entry computation are kernels, by kind."""
    found: Counter = Counter()
    for line in hlo[hlo.index("\nENTRY ") :].splitlines():
        operation = re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", re.sub(r"/\*.*?\*/", "", line))
        if operation and operation[1] not in NO_KERNELS:
            found[operation[1]] += 1
    return found


if __name__ == "__main__":
    main()
