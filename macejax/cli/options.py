"""What options of several commands may be. Typer reads these when the command line is made, before anything slow is imported."""

from __future__ import annotations

from typing import Literal

Radial = Literal["network", "table"]
Dtype = Literal["float64", "float32", "tf32x3", "tf32", "bf16"]  # `macejax.config.PrecisionName`; those after float32 not on a CPU
