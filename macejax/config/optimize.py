"""What training minimises, and how."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, model_validator

from macejax.config.section import Section

# Terms of every kind of loss; loss_terms has their forms.
TERMS = {
    "weighted": ("energy", "forces"),
    "ef": ("energy", "forces"),
    "forces_only": ("forces",),
    "stress": ("energy", "forces", "stress"),
    "virials": ("energy", "forces", "virials"),
    "huber": ("energy", "forces", "stress"),
    "universal": ("energy", "forces", "stress"),
    "l1l2": ("energy", "forces"),
    "dipole": ("dipole",),
    "dipole_polar": ("dipole", "polarizability"),
    "energy_forces_dipole": ("energy", "forces", "dipole"),
}
WITH_DELTA = ("huber", "universal")  # losses that read huber_delta
# Options of every kind of schedule, beside warm-up, which all of them have.
OF_SCHEDULE = {"plateau": ("factor", "patience", "threshold"), "exponential": ("gamma",), "cosine": ("final_factor",), "constant": ()}


def changed(section: Section, names: Iterable[str]) -> list[str]:
    """Those of the options that are not at their default. An option at its default is never refused: `macejax config` writes them all."""
    return [name for name in names if getattr(section, name) != type(section).model_fields[name].default]


def require_terms(section: Section, kind: str, prefix: str = "") -> None:
    """Refuse the weight of a term that the loss `kind` has not. A weight of 0 says just that.

    Args:
      section: has the weights.
      kind: of the loss.
      prefix: what stands before the names of the weights in the message.

    Raises:
      ValueError: names the weight, and the losses with this term.
    """
    for name in changed(section, (name for name in type(section).model_fields if name.endswith("_weight"))):
        term = name.removesuffix("_weight")
        if term not in TERMS[kind] and getattr(section, name) > 0:
            fitting = " or ".join(other for other, terms in TERMS.items() if term in terms)
            raise ValueError(
                f"{prefix}{name} has no effect: the loss {kind} has no term for {term}. Leave it out, or set loss.kind to {fitting}."
            )


class LossConfig(Section):
    """Loss of one stage: a weighted sum of means over the labels that are present (macejax/train/loss.py)."""

    kind: Literal[
        "weighted",
        "ef",
        "forces_only",
        "stress",
        "virials",
        "huber",
        "universal",
        "l1l2",
        "dipole",
        "dipole_polar",
        "energy_forces_dipole",
    ] = Field(
        "weighted",
        description="Form of the error. weighted: squares of energy per atom and forces; ef: the same, weights 1 where none are given; "
        "dipole, dipole_polar, energy_forces_dipole: for AtomicDipolesMACE, AtomicDielectricMACE, EnergyDipolesMACE.",
    )
    energy_weight: float = Field(1.0, ge=0, description="Weight of the energy term.")
    forces_weight: float = Field(100.0, ge=0, description="Weight of the forces term.")
    stress_weight: float = Field(1.0, ge=0, description="Weight of the stress term (stress, huber, universal).")
    virials_weight: float = Field(1.0, ge=0, description="Weight of the virials term (virials).")
    dipole_weight: float = Field(1.0, ge=0, description="Weight of the dipole term (dipole, dipole_polar, energy_forces_dipole).")
    polarizability_weight: float = Field(1.0, ge=0, description="Weight of the polarizability term (dipole_polar).")
    huber_delta: float = Field(0.01, gt=0, description="Error at which huber and universal turn from square to linear.")

    @model_validator(mode="before")
    @classmethod
    def _ef_weighs_both_alike(cls, values: Any) -> Any:
        # As mace_run_train, which however ignores the weights that it is given with --loss ef.
        if isinstance(values, dict) and values.get("kind") == "ef":
            return {"energy_weight": 1.0, "forces_weight": 1.0, **values}
        return values

    @model_validator(mode="after")
    def _every_option_acts(self) -> LossConfig:
        require_terms(self, self.kind)
        if self.kind not in WITH_DELTA and changed(self, ["huber_delta"]):
            raise ValueError(
                f"huber_delta has no effect on the loss {self.kind}: leave it out, or set loss.kind to {' or '.join(WITH_DELTA)}."
            )
        return self


class ScheduleConfig(Section):
    """How the learning rate moves during a stage."""

    kind: Literal["plateau", "exponential", "cosine", "constant"] = Field(
        "plateau",
        description="plateau: lowered when validation stalls; exponential: per epoch; cosine: to final_factor at the last epoch; constant.",
    )
    factor: float = Field(0.8, gt=0, lt=1, description="plateau: factor on the learning rate.")
    patience: int = Field(50, ge=0, description="plateau: validations without improvement that are waited for.")
    threshold: float = Field(1e-4, ge=0, lt=1, description="plateau: relative improvement that counts.")
    gamma: float = Field(0.9993, gt=0, le=1, description="exponential: factor per epoch.")
    final_factor: float = Field(0.0, ge=0, le=1, description="cosine: share of the learning rate that is left at the end.")
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs of linear warm-up from zero, before any of the schedules.")

    @model_validator(mode="after")
    def _every_option_acts(self) -> ScheduleConfig:
        for kind, names in OF_SCHEDULE.items():
            if kind != self.kind and (idle := changed(self, names)):
                raise ValueError(
                    f"{idle[0]} has no effect on a {self.kind} schedule: leave it out, or set optimizer.schedule.kind to {kind}."
                )
        return self


class RateFactors(Section):
    """Factors on the learning rate of parts of the model. A part whose factor is 0 is frozen: it keeps its weights (those of schedulefree's
    average up to rounding), and its gradient is not computed.
    """

    embedding: float = Field(1.0, ge=0, description="Of the embeddings of elements and other inputs.")
    interactions: float = Field(1.0, ge=0, description="Of the interactions: linear maps, radial networks, skip connections.")
    products: float = Field(1.0, ge=0, description="Of the products: weights of the symmetric contraction and the linear maps after it.")
    readouts: float = Field(1.0, ge=0, description="Of the readouts.")

    @model_validator(mode="after")
    def _something_is_trained(self) -> RateFactors:
        if not any(self.model_dump().values()):
            raise ValueError("all parts of the model have the factor 0, so that nothing would be trained: give one of them another.")
        return self


class OptimizerConfig(Section):
    """Optimizer, gradient clipping and learning rate. The defaults are those of mace_run_train (Adam with amsgrad on)."""

    kind: Literal["amsgrad", "adam", "amsgradw", "adamw", "schedulefree"] = Field(
        "amsgrad", description="amsgrad and amsgradw are torch's Adam and AdamW with amsgrad=True; schedulefree is schedule-free AdamW."
    )
    learning_rate: float = Field(0.01, gt=0, description="Learning rate.")
    weight_decay: float = Field(
        5e-7,
        ge=0,
        description="Decay of the matrices that MACE decays; added to the gradient, decoupled in amsgradw, adamw and schedulefree.",
    )
    beta1: float = Field(0.9, gt=0, lt=1, description="Decay of the first moment; in schedulefree the share of the average.")
    beta2: float | None = Field(None, gt=0, lt=1, description="Decay of the second moment. Default 0.999, and 0.98 for schedulefree.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    clip_norm: float | None = Field(10.0, gt=0, description="Largest global norm of the gradient; null switches clipping off.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="Learning rate schedule.")
    rate_factors: RateFactors = Field(
        RateFactors(), description="Factors on the learning rate of parts of the model; 0 freezes a part, as one may in fine-tuning."
    )

    @model_validator(mode="after")
    def _schedule_free_has_no_schedule(self) -> OptimizerConfig:
        if self.kind == "schedulefree" and self.schedule.kind != "constant":
            raise ValueError(f"schedulefree takes no {self.schedule.kind} schedule: set schedule.kind to constant (warm-up is allowed).")
        return self
