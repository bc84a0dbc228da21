"""One program in a process of its own, told by lines of JSON on its standard input what to do: so that programs which cannot be installed
together run in one bench, take turns, and have a peak memory of their own.

Commands and answers, all objects: {"do": "prepare", ...} -> {"atoms", "edges", "compile_s", "forces": file}; {"do": "time"} -> {"seconds"};
{"do": "time", "steps"} -> {"seconds", "cores"}, of one call with so many steps; {"do": "memory"} -> {"peak_mb"};
{"do": "stop"}. An exception is answered with {"error": text}.
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


def serve(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Answer commands until there are no more."""
    answers = os.fdopen(int(sys.argv[1]), "w")  # not the standard output: libraries print there
    work: Work | None = None
    base = 0.0
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
                np.savez(command["answer"], energies=work.energies, forces=work.forces)
                answer = {"atoms": len(work.forces), "edges": work.edges, "compile_s": work.compile_seconds}
            elif command["do"] == "time" and "steps" in command:
                begun = time.process_time()
                answer = {"seconds": _seconds(partial(work.call, command["steps"]), 1), "cores": time.process_time() - begun}
            elif command["do"] == "time":
                answer = {"seconds": turn(work.call)}
            else:
                answer = {"peak_mb": _status("VmHWM"), "base_mb": base} | device_peak()
        except Exception as error:  # the driver must hear of it, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


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
