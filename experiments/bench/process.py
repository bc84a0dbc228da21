"""The side of the bench that tells programs in other processes what to do (worker.py is theirs)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any


class Worker:
    """A program in a process of its own, which runs a script that calls `worker.serve`.

    Args:
      name: what errors call it.
      python: that runs the script.
      script: the program.
      cache: folder of compiled programs.
    """

    def __init__(self, name: str, python: str, script: Path, cache: str | None = None) -> None:
        self._name = name
        # The programs share an accelerator's memory: none takes it all beforehand.
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if cache:
            environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
        answers, end = os.pipe()
        self._process = subprocess.Popen(
            [python, str(script), str(end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            pass_fds=(end,),
        )
        os.close(end)
        self._answers = os.fdopen(answers)

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._answers.readline()
        answer = json.loads(line) if line else {"error": "the process ended (out of memory?)"}
        if "error" in answer:
            raise RuntimeError(f"{self._name} failed at {command['do']!r}: {answer['error']}")
        return answer

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
