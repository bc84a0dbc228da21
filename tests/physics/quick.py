"""check_potential with options that make XLA compile several times faster: in these tests arrays are tiny."""

from __future__ import annotations

import functools
from typing import Any

import jax

from macejax.testing import Report, check_potential

WANTED = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# What users run. Code made at level 0, which conftest asks for, rounds up to ten times worse in float32.
AS_USERS = {"xla_backend_optimization_level": 3}


def check(*arguments: Any, hurry: bool = True, **options: Any) -> Report:
    """`check_potential`, compiled in a hurry, or else as users have it."""
    return check_potential(*arguments, compiler_options=compiler_options() if hurry else AS_USERS, **options)


@functools.cache
def compiler_options() -> dict[str, object]:
    """Those of the options that this XLA knows."""
    return {name: value for name, value in WANTED.items() if _known(name, value)}


def _known(name: str, value: object) -> bool:
    try:
        jax.jit(lambda x: x + 1, compiler_options={name: value})(1.0)
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
