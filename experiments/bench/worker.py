"""One program in a process of its own, told by lines of JSON on its standard input what to do: so that programs which cannot be installed
together run in one bench, take turns, and have a peak memory of their own.

Commands and answers, all objects: {"do": "prepare", ...} -> {"atoms", "edges", "compile_s", "forces": file}; {"do": "time"} -> {"seconds"};
{"do": "time", "steps"} -> {"seconds", "cores"}, of one call with so many steps; {"do": "memory"} -> {"peak_mb",
"recompiles"}; {"do": "stop"}. An exception is answered with {"error": text}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

TURN = 0.3  # s


class Work(NamedTuple):
    """What a program prepared."""

    call: Callable[..., Any]  # does the work once and waits for its end; of simulations, as many steps as it is told
    energies: np.ndarray  # [structures] eV, without E0s
    forces: np.ndarray  # [atoms, 3] eV/Angstrom
    edges: int
    compile_seconds: float
    stress: np.ndarray | None = None  # [structures, 3, 3] eV/Angstrom^3, where it was asked for


def serve(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Answer commands until there are no more."""
    answers = os.fdopen(int(sys.argv[1]), "w")  # not the standard output: libraries print there
    work: Work | None = None
    base = 0.0
    compiled = _compilations()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "stop":
                break
            if command["do"] == "prepare":
                work = None
                reset_peak()
                base = _status("VmRSS")
                work = prepare(command)
                results = {"energies": work.energies, "forces": work.forces, "stress": work.stress}
                np.savez(command["answer"], **{name: found for name, found in results.items() if found is not None})
                compiled.clear()
                answer = {"atoms": len(work.forces), "edges": work.edges, "compile_s": work.compile_seconds}
            elif command["do"] == "time" and "steps" in command:
                begun = time.process_time()
                answer = {"seconds": _seconds(partial(work.call, command["steps"]), 1), "cores": time.process_time() - begun}
            elif command["do"] == "time":
                answer = {"seconds": turn(work.call)}
            else:
                answer = {"peak_mb": _status("VmHWM"), "base_mb": base, "recompiles": len(compiled)} | device_peak()
        except Exception as error:  # the driver must hear of it, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def check_slope(energy: Callable[[np.ndarray], float], forces: np.ndarray, dtype: str) -> None:
    """Compare forces [N, 3] (eV/Angstrom) along one direction with the slope of the energy, to what the dtype resolves.

    Args:
      energy: eV, of all structures displaced by [N, 3] (Angstrom).

    Raises:
      ValueError: they disagree.
    """
    direction = np.random.default_rng(0).normal(size=forces.shape)
    step = 1e-2 if dtype == "float32" else 1e-4
    slope = (energy(step * direction) - energy(-step * direction)) / (2 * step)
    known = -np.sum(np.asarray(forces, np.float64) * direction)
    if not abs(slope - known) <= 0.05 * abs(known) + 0.05 * np.linalg.norm(forces):
        raise ValueError(f"forces and energies disagree: slope {slope}, forces {known}.")


def _compilations() -> list[str]:
    """A list that grows with every program that jax compiles from now on; empty where there is no jax.

    As `macejax.cache.compilations`, which the environments of others do not have.
    """
    found: list[str] = []

    def listen(event: str, seconds: float, **facts: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(str(facts.get("fun_name", "")))

    if "jax" in sys.modules:
        sys.modules["jax"].monitoring.register_event_duration_secs_listener(listen)
    return found


def turn(call: Callable[[], Any]) -> float:
    """Seconds of a call; the mean of as many as a turn has time for, after one to fill the caches that the other programs have used."""
    seconds = _seconds(call, 1)
    if seconds > TURN:
        return seconds
    count = int(TURN / seconds) + 1
    return _seconds(call, count) / count


def _seconds(call: Callable[[], Any], count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - begun


def reset_peak() -> None:
    """Let the peak of the resident memory start anew (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def device_peak() -> dict[str, float]:
    """Peak of an accelerator's memory, as the framework counts it."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        return {"device_peak_mb": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_available() else {}
    stats = sys.modules["jax"].local_devices()[0].memory_stats()
    return {"device_peak_mb": stats["peak_bytes_in_use"] / 2**20} if stats else {}


def _status(field: str) -> float:
    """A figure of /proc/self/status in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))
