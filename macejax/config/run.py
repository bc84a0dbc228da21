"""A training run: its data, its stages, its files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from macejax.config.model import ModelSection, atomic_number
from macejax.config.optimize import LossConfig, OptimizerConfig, changed, require_terms
from macejax.config.precision import Precision, PrecisionName
from macejax.config.section import ConfigError, Section
from macejax.config.start import OF_START, StartConfig, require_kept
from macejax.data.labels import Keys

NAME = re.compile(r"[A-Za-z0-9_.-]+")
E0sName = Literal["isolated", "average", "foundation", "estimated"]


class KeysConfig(Section):
    """Names of the labels in the files (info and arrays of extended XYZ). null, or of inputs an empty list: do not read it."""

    energy: str | None = Field("REF_energy", description="Total energy (eV).")
    forces: str | None = Field("REF_forces", description="Forces (eV/Angstrom).")
    stress: str | None = Field("REF_stress", description="Stress (eV/Angstrom^3, ASE's sign: positive when the crystal wants to shrink).")
    virials: str | None = Field("REF_virials", description="Virials (eV), -volume x stress.")
    dipole: str | None = Field(
        "dipole", description="Dipole, in Debye for AtomicDipolesMACE and EnergyDipolesMACE, in e Angstrom for AtomicDielectricMACE."
    )
    polarizability: str | None = Field("polarizability", description="Polarizability (AtomicDielectricMACE), 3x3, in any unit.")
    charges: str | None = Field(
        "REF_charges", description="Fixed charges (e), whose dipole AtomicDipolesMACE and EnergyDipolesMACE add to their own."
    )
    head: str | None = Field("head", description="Level of theory: the head of the model that learns this structure.")
    total_charge: str | None = Field(
        "total_charge",
        description="Total charge (e), for a model that embeds it (joint_embedding) and for AtomicDielectricMACE, whose charges sum to it.",
    )
    total_spin: str | None = Field("total_spin", description="Spin multiplicity, for a model that embeds it.")
    inputs: tuple[str, ...] = Field(
        ("elec_temp",), description="Other inputs that a model may embed, values of structures or columns of atoms, by their names."
    )
    config_type: str | None = Field("config_type", description="Kind of structure, by which errors are tabulated and weights given.")
    weight: str | None = Field("config_weight", description="Weight of the structure in the loss.")


def read_keys(assignments: Iterable[str]) -> Keys:
    """Names of labels from `["energy=dft_energy", ...]`, the others at their default.

    Raises:
      ConfigError: no assignment, or no such label.
    """
    given = {}
    for assignment in assignments:
        label, equals, name = assignment.partition("=")
        if not equals or label not in KeysConfig.model_fields:
            raise ConfigError(f"--key {assignment}: write label=name, with a label among {', '.join(KeysConfig.model_fields)}.")
        given[label] = tuple(filter(None, name.split(","))) if label == "inputs" else name or None
    return Keys(**KeysConfig(**given).model_dump())


class DataConfig(Section):
    """Which structures to learn from, and how they are served."""

    train: tuple[str, ...] = Field(description="Training files: extended XYZ or anything that ASE reads. One path, or a list. Required.")
    valid: tuple[str, ...] | None = Field(
        None, description="Validation files. null: a random part of the training set, see valid_fraction."
    )
    valid_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the training set of each head that validates, drawn with run.seed, where there is no valid file.",
    )
    test: tuple[str, ...] | None = Field(None, description="Test files, evaluated once, at the end.")
    keys: KeysConfig = Field(KeysConfig(), description="Names of the labels in the files.")
    e0s: E0sName | dict[str, float] | dict[str, E0sName | dict[str, float]] = Field(
        "isolated",
        description="Energies of the isolated atoms: isolated (frames with config_type=IsolatedAtom), average (least squares over the "
        "training set), or a table such as {H: -13.6, O: -2041.8} (eV); with start.model also foundation (those of that model) and "
        "estimated (the same, moved by what its energies are wrong by, least squares). For several heads also {head: one of these, ...}, "
        "such as {old: foundation, new: estimated}.",
    )
    keep_isolated_atoms: bool = Field(False, description="Train on the IsolatedAtom frames too.")
    config_type_weights: dict[str, float] = Field(
        {},
        description="Factors on the weight of the training structures of a config_type, not of those that validate; 1 for those not named.",
    )
    batch_size: int = Field(10, ge=1, description="Structures per step, over all devices.")
    valid_batch_atoms: int = Field(
        256, ge=1, description="Atoms per device and batch in validation and test; changes speed and memory, not results."
    )
    edge_folder: str | None = Field(
        None,
        description="Folder, best on a local disk, that keeps the edges of all structures (28 bytes each, 1 to 2 kB per atom in a crystal),"
        " so that they need not fit in memory; a later run on the same structures and cutoff finds them there. null: they are in memory.",
    )

    @field_validator("train", "valid", "test", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("train", "valid", "test")
    @classmethod
    def _some_file(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if value is not None and not value:
            raise ValueError(
                "no training file is named." if info.field_name == "train" else "no file is named: name one, or leave the option out."
            )
        return value

    @field_validator("e0s", mode="before")
    @classmethod
    def _numbers_are_keys_too(cls, value: object) -> object:
        return {str(key): cls._numbers_are_keys_too(part) for key, part in value.items()} if isinstance(value, dict) else value

    @field_validator("e0s")
    @classmethod
    def _known_elements(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        tables = [value] if _is_table(value) else value.values() if isinstance(value, dict) else []
        for table in tables:
            for element in table if isinstance(table, dict) else ():
                atomic_number(element)
        return value

    @field_validator("config_type_weights")
    @classmethod
    def _not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if weight < 0:
                raise ValueError(f"the weight of {name} is negative: {weight}.")
        return value

    @model_validator(mode="after")
    def _one_way_to_validate(self) -> DataConfig:
        if self.valid is not None and changed(self, ["valid_fraction"]):
            raise ValueError("valid_fraction has no effect beside data.valid: leave one of them out.")
        return self

    def require_heads(self, heads: Iterable[str]) -> None:
        """Refuse energies of isolated atoms of a head that is none of the run's.

        Raises:
          ConfigError: names it.
        """
        by_head = self.e0s if isinstance(self.e0s, dict) and not _is_table(self.e0s) else {}
        if strange := [head for head in by_head if head not in heads]:
            raise ConfigError(f"data.e0s names {strange[0]!r}, which is no head of the run ({', '.join(heads)}): leave it out.")

    def e0s_names(self) -> list[str]:
        """The ways in which energies of isolated atoms are found, tables apart."""
        ways = self.e0s.values() if isinstance(self.e0s, dict) else [self.e0s]
        return [way for way in ways if isinstance(way, str)]

    def e0s_of(self, head: str) -> str | dict[str, float]:
        """`e0s` of one head: the name of a way, or a table.

        Raises:
          ConfigError: e0s are given by head, but not for this one.
        """
        if not isinstance(self.e0s, dict) or _is_table(self.e0s):
            return self.e0s  # type: ignore[return-value]
        if head not in self.e0s:
            raise ConfigError(f"data.e0s says nothing of the head {head!r}; it has {', '.join(self.e0s)}.")
        return self.e0s[head]  # type: ignore[return-value]


def _is_table(value: object) -> bool:
    """Whether this is energies by element, not by head."""
    return isinstance(value, dict) and not any(isinstance(part, dict | str) for part in value.values())


class StageTwoConfig(Section):
    """A second stage with its own weights of the loss and its own learning rate (in mace_run_train: --stage_two, formerly swa)."""

    enabled: bool = Field(False, description="Whether there is a second stage.")
    start: int | None = Field(None, ge=1, description="Epochs before the second stage begins. null: three quarters of run.epochs.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate, constant.")
    energy_weight: float = Field(1000.0, ge=0, description="Weight of the energy term.")
    forces_weight: float = Field(100.0, ge=0, description="Weight of the forces term.")
    stress_weight: float = Field(10.0, ge=0, description="Weight of the stress term.")
    virials_weight: float = Field(10.0, ge=0, description="Weight of the virials term.")
    dipole_weight: float = Field(1.0, ge=0, description="Weight of the dipole term.")
    polarizability_weight: float = Field(1.0, ge=0, description="Weight of the polarizability term.")


class RunConfig(Section):
    """Length of the run, numbers, files."""

    name: str = Field("macejax", description="Name of the run, of its folder and of its model file.")
    directory: str = Field("runs", description="Where the folder of the run lies: <directory>/<name>.")
    seed: int = Field(123, ge=0, lt=2**63, description="Seed of initial weights, order of structures and validation split.")
    dtype: PrecisionName = Field(
        "float64",
        description="Precision of the model and of training; tf32x3, tf32 (GPU) and bf16 (GPU, TPU) are of matrix products in float32.",
    )
    epochs: int = Field(2048, ge=1, description="Epochs, both stages together.")
    patience: int = Field(
        2048, ge=1, description="Validations without a new best after which a stage ends: the first passes to the second, the last stops."
    )
    validate_every: int = Field(1, ge=1, description="Epochs from one validation to the next; the last epoch of a stage is validated too.")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Decay of the moving average of the weights that is validated and saved. null: none."
    )
    device_count: int | None = Field(None, ge=1, description="Local devices to train on. null: all of them.")
    save_every: int | None = Field(None, ge=1, description="Steps from one checkpoint to the next, beside the one at each validation.")
    keep: int = Field(2, ge=1, description="Checkpoints kept in checkpoints/last; the best one is kept beside them.")
    max_skipped: int = Field(5, ge=1, description="Steps in a row with a loss or gradient that is not finite, after which the run stops.")
    log_every: int = Field(50, ge=1, description="Steps from one report of the loss to the next.")

    @property
    def precision(self) -> Precision:
        """The policy that `dtype` names."""
        return Precision.of(self.dtype)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME.fullmatch(value) or value.startswith("."):
            raise ValueError(f"{value!r} cannot name a file: use letters, digits, '_', '-' and '.'.")
        return value


def second_stage_start(epochs: int, start: int | None) -> int:
    """First epoch of the second stage of a run of so many epochs, with this value of stage_two.start."""
    return epochs // 4 * 3 if start is None else start


class TrainConfig(Section):
    """Everything that a training run can be told."""

    run: RunConfig = Field(RunConfig(), description="Length of the run, numbers, files.")
    data: DataConfig = Field(description="Structures, labels, batches.")
    start: StartConfig = Field(StartConfig(), description="Fine-tuning: the model to start from.")
    model: ModelSection = Field(ModelSection(), description="Architecture.")
    loss: LossConfig = Field(LossConfig(), description="Loss of the first stage.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="Optimizer; the second stage has its own learning rate.")
    stage_two: StageTwoConfig = Field(StageTwoConfig(), description="Second stage.")

    @model_validator(mode="after")
    def _one_model(self) -> TrainConfig:
        if self.start.model is not None:
            require_kept(self.model)
        elif needed := [name for name in self.data.e0s_names() if name in OF_START]:
            raise ValueError(f"data.e0s is {needed[0]}, which needs the energies of a model to start from: name one in start.model.")
        return self

    @model_validator(mode="after")
    def _stage_two_begins_in_time(self) -> TrainConfig:
        if self.stage_two.enabled and not 1 <= self.stage_two_start() < self.run.epochs:
            raise ValueError(
                f"stage_two.start is {self.stage_two_start()}, but the run has {self.run.epochs} epochs, so that it would never begin."
            )
        return self

    @model_validator(mode="after")
    def _every_option_of_stage_two_acts(self) -> TrainConfig:
        if self.stage_two.enabled:
            require_terms(self.stage_two, self.loss.kind, "stage_two.")
        elif idle := changed(self.stage_two, StageTwoConfig.model_fields):
            raise ValueError(f"stage_two.{idle[0]} has no effect without a second stage: leave it out, or set stage_two.enabled to true.")
        return self

    @model_validator(mode="after")
    def _scaling_acts(self) -> TrainConfig:
        model = self.model
        no_shift = model.scaling == "no_scaling" and model.model == "ScaleShiftMACE" and model.shift == "auto"  # it makes the shift 0
        if model.scale != "auto" and changed(model, ["scaling"]) and not no_shift:
            raise ValueError("model.scaling has no effect beside model.scale: leave one of them out.")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> TrainConfig:
        if self.optimizer.kind == "schedulefree" and self.run.ema_decay is not None:
            raise ValueError("schedulefree evaluates on an average of its own: set run.ema_decay to null.")
        return self

    def stage_two_start(self) -> int:
        """First epoch of the second stage."""
        return second_stage_start(self.run.epochs, self.stage_two.start)

    def stage_two_loss(self) -> LossConfig:
        """Loss of the second stage: the kind of the first with the weights of the second."""
        names = ("energy_weight", "forces_weight", "stress_weight", "virials_weight", "dipole_weight", "polarizability_weight")
        return self.loss.model_copy(update={name: getattr(self.stage_two, name) for name in names})
