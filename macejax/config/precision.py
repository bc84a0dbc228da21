"""In which numbers a model is computed: parameters, matrix products, geometry."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import DTypeLike
from pydantic import Field, model_validator

from macejax.config.section import ConfigError, Section

PrecisionName = Literal["float64", "float32", "tf32x3", "tf32", "bf16"]
# What jax.default_matmul_precision calls them, and the kinds of devices that have them. XLA does not know tf32 on a CPU, and computes
# bf16 there as float32 without saying so.
_PRODUCTS = {
    "float64": ("highest", ("cpu", "gpu", "tpu")),
    "float32": ("highest", ("cpu", "gpu", "tpu")),
    "tf32x3": ("TF32_TF32_F32_X3", ("gpu",)),
    "tf32": ("TF32_TF32_F32", ("gpu",)),
    "bf16": ("BF16_BF16_F32", ("gpu", "tpu")),
}


class Precision(Section):
    """A precision policy. Energies of isolated atoms, and the sum of an energy over atoms in the calculator, are float64 in each.

    `Precision.of("tf32")` is the policy of that name. What a policy costs in forces, `macejax.precision_error` measures.
    """

    parameters: Literal["float64", "float32"] = Field("float64", description="Parameters, features and everything that has no own field.")
    compute: PrecisionName | None = Field(
        None,
        description="Numbers that matrix products multiply. tf32 rounds them to 11 bits, bf16 to 8, tf32x3 takes three products of tf32 "
        "for nearly those of float32. null: as parameters.",
    )
    geometry: Literal["float64", "float32"] = Field(
        "float64",
        description="float64: edge vectors are those of float64 positions, rounded once. float32: positions are rounded, then subtracted.",
    )

    @property
    def products(self) -> str:
        """Precision of matrix products as jax names it."""
        return _PRODUCTS[self.compute or self.parameters][0]

    @property
    def accumulation(self) -> str:
        """In what sums are taken, those inside matrix products too: as `parameters`, for no device has another choice."""
        return self.parameters

    @classmethod
    def of(cls, value: DTypeLike | Precision) -> Precision:
        """The policy of a name, which may be a dtype; a policy as it is.

        Raises:
          ConfigError: there is none of that name.
        """
        if isinstance(value, Precision):
            return value
        try:
            name = value if isinstance(value, str) else np.dtype(value).name
        except TypeError:
            name = str(value)
        if name not in get_args(PrecisionName):
            raise ConfigError(f"dtype must be one of {', '.join(get_args(PrecisionName))}, or a macejax.Precision, not {value!r}.")
        return cls(parameters="float64" if name == "float64" else "float32", compute=name)

    def require(self, backend: str) -> None:
        """Refuse a policy that a kind of device (`jax.default_backend()`) would not follow.

        Raises:
          ConfigError: it would not.
        """
        name = self.compute or self.parameters
        devices = _PRODUCTS[name][1]
        if backend not in devices:
            raise ConfigError(f"matrix products in {name} are for {' and '.join(devices)}; on this {backend} choose float32 or float64.")

    @model_validator(mode="after")
    def _possible(self) -> Precision:
        if self.parameters == "float64" and (self.compute or "float64") != "float64":
            raise ValueError(f"parameters in float64 are computed with in float64: compute {self.compute} needs parameters in float32.")
        if self.parameters == "float32" and self.compute == "float64":
            raise ValueError("parameters in float32 are not multiplied in float64: set parameters to float64.")
        if self.parameters == "float64" and self.geometry == "float32":
            raise ValueError("a computation in float64 has its geometry in float64.")
        return self
