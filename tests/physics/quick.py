"""check_potential as the tests call it."""

from __future__ import annotations

import os
from typing import Any

from macejax.testing import Report, check_potential

# What users run. Code made at level 0, which conftest asks for, rounds up to ten times worse in float32.
AS_USERS: dict[str, object] = {"xla_backend_optimization_level": 3}
if "xla_cpu_use_fusion_emitters" in os.environ.get("XLA_FLAGS", ""):
    AS_USERS["xla_cpu_use_fusion_emitters"] = True


def check(*arguments: Any, hurry: bool = True, **options: Any) -> Report:
    """`check_potential`, compiled in a hurry, or else as users have it."""
    return check_potential(*arguments, compiler_options=None if hurry else AS_USERS, **options)
