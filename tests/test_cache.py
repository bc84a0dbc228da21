"""The cache of compiled programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax, macejax
macejax.enable_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
jax.jit(lambda x: jax.numpy.sin(x) * 3)(2.0).block_until_ready()
print(len(hits))
"""


def run(program: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | variables
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_second_process_compiles_nothing_and_the_folder_is_the_users_own(tmp_path: Path) -> None:
    assert run(PROGRAM, XDG_CACHE_HOME=str(tmp_path)) == "0"
    assert int(run(PROGRAM, XDG_CACHE_HOME=str(tmp_path))) > 0
    assert (tmp_path / "macejax" / "jax").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    program = f"import macejax\ntry:\n    macejax.enable_cache({str(tmp_path / 'open')!r})\nexcept PermissionError as e:\n    print(e)"
    message = run(program)
    assert "open" in message and "chmod 700" in message


@pytest.mark.parametrize("value", ["", "somewhere"])
def test_the_variable_of_jax_rules(tmp_path: Path, value: str) -> None:
    folder = str(tmp_path / value) if value else ""
    expected = "None" if value == "" else folder
    program = "import macejax\nprint(macejax.enable_cache())"
    assert run(program, JAX_COMPILATION_CACHE_DIR=folder) == expected
