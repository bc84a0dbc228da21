"""What every test shares: precision, compile cache, and the way to the real data."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Before jax is imported. Commands that the tests start inherit the cache, but choose their own precision.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ.get("MACEJAX_CACHE", str(REPOSITORY / ".cache" / "jax")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Arrays are tiny and programs many: most of the time is XLA's. Without its optimiser it takes half of that; up to 0.10, a third less again
# with the emitters that it had before. Later ones have no such flag, and end a process that names it.
FLAGS = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA reports tuning flags of its own cached programs as missing CPU features
os.environ.setdefault("MPLBACKEND", "Agg")
# Before numpy: ASE and scipy factorise 3 x 3 matrices by the thousand, for which BLAS would wake threads that then spin.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax  # noqa: E402  (the lines above must come first)

jax.config.update("jax_enable_x64", os.environ.get("MACEJAX_TEST_X64", "1") != "0")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped() -> Iterator[None]:
    """After each file: a process that keeps the programs of all of them runs out of memory maps (65530), and dies."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder that holds `data/` and `models/` with reference labels of others; the test is skipped where there is none."""
    folder = os.environ.get("MACEJAX_TEST_DATA")
    if not folder:
        pytest.skip("MACEJAX_TEST_DATA is not set: no real data to test on.")
    path = Path(folder)
    if not (path / "data").is_dir():
        raise FileNotFoundError(f"MACEJAX_TEST_DATA={folder} holds no folder data/.")
    return path
