"""What a command sets for its own process, and how it fails. The library sets nothing of this by itself."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path


def set_up_jax(dtype: str) -> None:
    """Precision and compile cache of this process; call it before anything is computed.

    Args:
      dtype: float64, or one that is computed in float32; the former switches x64 on.

    The cache of compiled programs lies in JAX_COMPILATION_CACHE_DIR, by default ~/.cache/macejax/jax; an empty value switches it off.
    """
    import jax

    from macejax.cache import enable_cache

    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        enable_cache()
    except OSError as error:  # a cache is a convenience: without one, everything works
        print(f"macejax: {error}", file=sys.stderr)


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this process one of several that compute together; call it after `set_up_jax`, before anything is computed.

    Args:
      coordinator: "host:port" of the first process; None where Slurm, Open MPI, Kubernetes or a TPU pod tell it, and the numbers too.
      processes: how many there are.
      process: which one this is, from 0.
    """
    import jax

    from macejax.config import ConfigError

    given = (coordinator, processes, process)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ConfigError("--coordinator, --processes and --process belong together: give all three, or --distributed alone.")
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the processes could not find each other: {error}") from error


def fail(error: Exception, debug: bool) -> int:
    """Report an error on stderr: one sentence for what a user can mend, else, and with `debug`, the traceback.

    Returns:
      Exit code: 2 for a wrong command line or configuration, 1 for the rest.
    """
    from macejax.config import ConfigError

    if debug or not (isinstance(error, _expected()) or _said_by_macejax(error)):
        traceback.print_exception(error)
    else:
        print(f"macejax: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError) else 1


def _said_by_macejax(error: Exception) -> bool:
    """Whether macejax itself raised the error, in a line of its own, and not a library or a slip of ours."""
    calls = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, (ValueError, ImportError)) or not calls:
        return False
    return Path(calls[-1].filename).is_relative_to(Path(__file__).parents[1]) and (calls[-1].line or "").startswith("raise ")


def _expected() -> tuple[type[Exception], ...]:
    from macejax.checkpoint.lock import LockError
    from macejax.checkpoint.manifest import CheckpointError
    from macejax.checkpoint.model_file import ModelFileError
    from macejax.config import ConfigError
    from macejax.data.structure import DataError

    # Importing these takes jax or ASE; where they were not imported, they raised nothing.
    guard, calculator, md = (sys.modules.get(f"macejax.{name}") for name in ("train.guard", "simulate.calculator", "simulate.md"))
    training = (guard.NonFiniteError,) if guard else ()
    simulation = (calculator.CalculationFailed, calculator.PropertyNotImplementedError, md.SimulationError) if calculator and md else ()
    return (ConfigError, DataError, ModelFileError, CheckpointError, LockError, OSError, *training, *simulation)
