"""Commands keep the programs that they compile, without being told to and without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from macejax.checkpoint.model_file import save_model
from macejax.config import ModelConfig
from macejax.data.write import write
from macejax.model.model import init_model
from tests.structures import structure

# The command, and after it a line with the number of programs that were read from the cache.
PROGRAM = """
import os
import sys
from macejax.cli import main, process

found, set_up = [], process.set_up_jax

def set_up_and_listen(dtype):
    set_up(dtype)
    import jax  # which has a level of its own where none is set

    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"

    jax.monitoring.register_event_listener(lambda name, **_: found.append(name) if name.endswith("cache_hits") else None)

process.set_up_jax = set_up_and_listen
try:
    main.main(sys.argv[1:])
finally:
    print("read from the cache:", len(found))
"""


def evaluate(folder: Path) -> int:
    """`macejax evaluate` as a user starts it, with a cache folder of its own; how many programs it found there."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL", "MACEJAX_DEBUG")
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}  # the model is tiny
    environment = {name: value for name, value in os.environ.items() if name not in ours} | own
    files = [str(folder / name) for name in ("model.mace", "water.xyz")]
    command = [sys.executable, "-c", PROGRAM, "evaluate", *files, "-o", str(folder / "out.xyz"), "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0 and "1 structures with predictions" in done.stdout, done.stderr
    assert done.stderr == ""
    return int(done.stdout.split("read from the cache:")[1])


@pytest.mark.thorough
@pytest.mark.multiprocess
def test_a_command_keeps_its_programs_in_the_users_cache_and_says_nothing(tmp_path: Path) -> None:
    config = ModelConfig(elements=(1, 8), e0s=(0.0, 0.0), cutoff=3.0, hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,))
    save_model(tmp_path / "model.mace", init_model(config, jax.random.key(0), np.float64))
    write(tmp_path / "water.xyz", [structure("water")])
    kept = tmp_path / "cache" / "macejax" / "jax"
    assert evaluate(tmp_path) == 0
    files = {path.name for path in kept.iterdir()}
    assert files and kept.stat().st_mode & 0o777 == 0o700
    assert evaluate(tmp_path) > 0
    assert {path.name for path in kept.iterdir()} == files
