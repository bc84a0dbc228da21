"""Typed, frozen configuration. Unknown keys are errors that name the nearest valid key; every field carries its own help."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A frozen group of options that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = list(cls.model_fields)
            for key in values:
                if key not in known:
                    near = difflib.get_close_matches(str(key), known, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(known)}."
                    raise ValueError(f"unknown key {key!r} in {cls.__name__}: {hint}")
        return values


class ModelConfig(Section):
    """Everything that, beside its parameters, defines a MACE. Defaults are those of mace_run_train."""

    model: Literal["MACE", "ScaleShiftMACE"] = Field("ScaleShiftMACE", description="MACE ignores scale and shift; ScaleShiftMACE applies them.")
    elements: tuple[int, ...] = Field(description="Atomic numbers that the model knows, ascending.")
    e0s: tuple[float, ...] = Field(description="Energy of each isolated atom (eV), in the order of elements.")
    cutoff: float = Field(5.0, gt=0, description="Cutoff radius (Angstrom).")
    num_bessel: int = Field(8, ge=1, description="Bessel radial basis functions.")
    cutoff_power: int = Field(5, ge=3, description="Power p of the polynomial cutoff.")
    hidden_irreps: str = Field("128x0e + 128x1o", description="Irreps of the node features, natural parity, equal multiplicities.")
    num_interactions: int = Field(2, ge=1, description="Message-passing layers.")
    l_max: int = Field(3, ge=0, description="Highest degree of the spherical harmonics.")
    correlation: int | tuple[int, ...] = Field(3, description="Correlation order of the product basis, 1 to 4; one number, or one per layer.")
    interaction_first: str = Field("RealAgnostic", description="Block of the first layer.")
    interaction: str = Field("RealAgnosticResidual", description="Block of the other layers.")
    radial_mlp: tuple[int, ...] = Field((64, 64, 64), description="Hidden widths of the radial network.")
    readout_irreps: str = Field("16x0e", description="Hidden layer of the last, non-linear readout.")
    gate: Literal["silu", "tanh", "abs", "none"] = Field("silu", description="Non-linearity of the last readout.")
    contraction_basis: Literal["full", "reduced"] = Field(
        "full", description="Paths that carry weights in the product basis: every coupling tree as mace_run_train, or an orthonormal basis of them."
    )
    avg_num_neighbors: float = Field(1.0, gt=0, description="Mean neighbour count over atoms that have one; messages are divided by it.")
    scale: float = Field(1.0, description="Factor on the summed readouts of each atom (eV).")
    shift: float = Field(0.0, description="Added to each atom's energy after scaling (eV).")

    @field_validator("elements")
    @classmethod
    def _elements_are_atomic_numbers(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] < 1 or value[-1] > 118:
            raise ValueError(f"elements must be distinct atomic numbers from 1 to 118 in ascending order, not {list(value)}.")
        return value

    @model_validator(mode="after")
    def _lengths_agree(self) -> ModelConfig:
        if len(self.e0s) != len(self.elements):
            raise ValueError(f"e0s has {len(self.e0s)} values for {len(self.elements)} elements.")
        orders = (self.correlation,) if isinstance(self.correlation, int) else self.correlation
        if any(not 1 <= order <= 4 for order in orders):
            raise ValueError(f"correlation must be from 1 to 4, not {self.correlation}.")
        if not isinstance(self.correlation, int) and len(orders) != self.num_interactions:
            raise ValueError(f"correlation has {len(orders)} values for {self.num_interactions} interactions.")
        return self


class LossConfig(Section):
    """Loss of one stage: a weighted sum of means over the labels that are present (macejax/train/loss.py)."""

    kind: Literal["weighted", "ef", "forces_only", "stress", "virials", "huber", "universal", "l1l2"] = Field(
        "weighted", description="Form of the error; weighted and ef are the squared error of energy per atom and forces."
    )
    energy_weight: float = Field(1.0, ge=0, description="Weight of the energy term.")
    forces_weight: float = Field(100.0, ge=0, description="Weight of the forces term.")
    stress_weight: float = Field(1.0, ge=0, description="Weight of the stress term (stress, huber, universal).")
    virials_weight: float = Field(1.0, ge=0, description="Weight of the virials term (virials).")
    huber_delta: float = Field(0.01, gt=0, description="Error at which huber and universal turn from square to linear.")


class ScheduleConfig(Section):
    """How the learning rate moves during a stage."""

    kind: Literal["plateau", "exponential", "cosine", "constant"] = Field(
        "plateau", description="plateau: lowered when validation stalls; exponential: per epoch; cosine: to final_factor at the last epoch; constant."
    )
    factor: float = Field(0.8, gt=0, lt=1, description="plateau: factor on the learning rate.")
    patience: int = Field(50, ge=0, description="plateau: validations without improvement that are waited for.")
    threshold: float = Field(1e-4, ge=0, lt=1, description="plateau: relative improvement that counts.")
    gamma: float = Field(0.9993, gt=0, le=1, description="exponential: factor per epoch.")
    final_factor: float = Field(0.0, ge=0, le=1, description="cosine: share of the learning rate that is left at the end.")
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs of linear warm-up from zero, before any of the schedules.")


class OptimizerConfig(Section):
    """Optimizer, gradient clipping and learning rate. The defaults are those of mace_run_train (Adam with amsgrad on)."""

    kind: Literal["amsgrad", "adam", "amsgradw", "adamw", "schedulefree"] = Field(
        "amsgrad", description="amsgrad and amsgradw are torch's Adam and AdamW with amsgrad=True; schedulefree is schedule-free AdamW."
    )
    learning_rate: float = Field(0.01, gt=0, description="Learning rate.")
    weight_decay: float = Field(
        5e-7, ge=0, description="Decay of the matrices that MACE decays; added to the gradient, decoupled in amsgradw, adamw and schedulefree."
    )
    beta1: float = Field(0.9, gt=0, lt=1, description="Decay of the first moment; in schedulefree the share of the average.")
    beta2: float | None = Field(None, gt=0, lt=1, description="Decay of the second moment. Default 0.999, and 0.98 for schedulefree.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    clip_norm: float | None = Field(10.0, gt=0, description="Largest global norm of the gradient; null switches clipping off.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="Learning rate schedule.")

    @model_validator(mode="after")
    def _schedule_free_has_no_schedule(self) -> OptimizerConfig:
        if self.kind == "schedulefree" and self.schedule.kind != "constant":
            raise ValueError(f"schedulefree takes no {self.schedule.kind} schedule: set schedule.kind to constant (warm-up is allowed).")
        return self
