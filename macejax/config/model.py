"""What a model is (`ModelConfig`), and what a user asks for (`ModelSection`), some of which is derived from the data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from macejax.config.section import Section
from macejax.data.species import NUMBERS


class ModelConfig(Section):
    """Everything that, beside its parameters, defines a MACE. Defaults are those of mace_run_train."""

    model: Literal["MACE", "ScaleShiftMACE"] = Field(
        "ScaleShiftMACE", description="MACE ignores scale and shift; ScaleShiftMACE applies them."
    )
    elements: tuple[int, ...] = Field(description="Atomic numbers that the model knows, ascending.")
    e0s: tuple[float, ...] = Field(description="Energy of each isolated atom (eV), in the order of elements.")
    cutoff: float = Field(5.0, gt=0, description="Cutoff radius (Angstrom).")
    num_bessel: int = Field(8, ge=1, description="Bessel radial basis functions.")
    cutoff_power: int = Field(5, ge=3, description="Power p of the polynomial cutoff.")
    distance_transform: Literal["none", "Agnesi", "Soft"] = Field(
        "none", description="Transform of distances, by covalent radii, before the radial basis."
    )
    pair_repulsion: bool = Field(False, description="Add the ZBL repulsion of nuclei closer than the sum of their covalent radii.")
    hidden_irreps: str = Field("128x0e + 128x1o", description="Irreps of the node features, natural parity, equal multiplicities.")
    num_interactions: int = Field(2, ge=1, description="Message-passing layers.")
    l_max: int = Field(3, ge=0, description="Highest degree of the spherical harmonics.")
    correlation: int | tuple[int, ...] = Field(
        3, description="Correlation order of the product basis, 1 to 4; one number, or one per layer."
    )
    interaction_first: str = Field("RealAgnostic", description="Block of the first layer.")
    interaction: str = Field("RealAgnosticResidual", description="Block of the other layers.")
    radial_mlp: tuple[int, ...] = Field((64, 64, 64), description="Hidden widths of the radial network.")
    readout_irreps: str = Field("16x0e", description="Hidden layer of the last, non-linear readout.")
    gate: Literal["silu", "tanh", "abs", "none"] = Field("silu", description="Non-linearity of the last readout.")
    contraction_basis: Literal["full", "reduced"] = Field(
        "full",
        description="Paths of the product basis that carry weights: every coupling tree, as mace_run_train, or an orthonormal basis.",
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


class ModelSection(Section):
    """The architecture that a training run asks for. What is `auto` is derived from the training set."""

    model: Literal["MACE", "ScaleShiftMACE"] = Field(
        "MACE",
        description="As in mace_run_train, both apply a scale. MACE: first block RealAgnostic, shift 0. ScaleShiftMACE: first block "
        "RealAgnosticResidual, shift = mean interaction energy per atom.",
    )
    elements: tuple[int | str, ...] | Literal["auto"] = Field(
        "auto", description="Elements that the model knows, as symbols or atomic numbers. auto: those of the training and validation sets."
    )
    cutoff: float = Field(5.0, gt=0, description="Cutoff radius (Angstrom).")
    num_bessel: int = Field(8, ge=1, description="Bessel radial basis functions.")
    cutoff_power: int = Field(5, ge=3, description="Power p of the polynomial cutoff.")
    num_channels: int | None = Field(None, ge=1, description="Channels of every irrep, with max_L instead of hidden_irreps. null: 128.")
    max_L: int | None = Field(
        None, ge=0, description="Highest degree of the node features, with num_channels instead of hidden_irreps. null: 1."
    )
    distance_transform: Literal["none", "Agnesi", "Soft"] = Field(
        "none", description="Transform of distances, by covalent radii, before the radial basis."
    )
    pair_repulsion: bool = Field(False, description="Add the ZBL repulsion of nuclei closer than the sum of their covalent radii.")
    hidden_irreps: str | None = Field(
        None, description="Irreps of the node features, such as '128x0e + 128x1o'. null: from num_channels and max_L."
    )
    num_interactions: int = Field(2, ge=1, description="Message-passing layers.")
    l_max: int = Field(3, ge=0, description="Highest degree of the spherical harmonics.")
    correlation: int | tuple[int, ...] = Field(
        3, description="Correlation order of the product basis, 1 to 4; one number, or one per layer."
    )
    interaction_first: str | None = Field(
        None, description="Block of the first layer. null: RealAgnostic for MACE, RealAgnosticResidual for ScaleShiftMACE."
    )
    interaction: str = Field("RealAgnosticResidual", description="Block of the other layers.")
    radial_mlp: tuple[int, ...] = Field((64, 64, 64), description="Hidden widths of the radial network.")
    readout_irreps: str = Field("16x0e", description="Hidden layer of the last, non-linear readout.")
    gate: Literal["silu", "tanh", "abs", "none"] = Field("silu", description="Non-linearity of the last readout.")
    contraction_basis: Literal["full", "reduced"] = Field(
        "full",
        description="Paths of the product basis that carry weights: every coupling tree, as mace_run_train, or an orthonormal basis.",
    )
    avg_num_neighbors: float | Literal["auto"] = Field(
        "auto", description="Messages are divided by it. auto: mean neighbour count of the training set."
    )
    scaling: Literal["rms_forces_scaling", "std_scaling", "no_scaling"] = Field(
        "rms_forces_scaling", description="Where scale comes from: rms force component, standard deviation of the energy per atom, or 1."
    )
    scale: float | Literal["auto"] = Field("auto", description="Factor on each atom's energy (eV). auto: by `scaling`.")
    shift: float | Literal["auto"] = Field("auto", description="Added to each atom's energy (eV). auto: by `model`.")

    @field_validator("elements")
    @classmethod
    def _symbols_to_numbers(cls, value: tuple[int | str, ...] | str) -> tuple[int, ...] | str:
        return value if value == "auto" else tuple(sorted(atomic_number(element) for element in value))

    @field_validator("avg_num_neighbors", "scale")
    @classmethod
    def _positive(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and value <= 0:
            raise ValueError(f"must be positive or auto, not {value}.")
        return value

    @model_validator(mode="after")
    def _one_way_to_say_the_irreps(self) -> ModelSection:
        if self.hidden_irreps is not None and (self.num_channels is not None or self.max_L is not None):
            raise ValueError("give either hidden_irreps, or num_channels and max_L, not both.")
        self.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=1.0, scale=1.0, shift=0.0)  # an architecture that is wrong is told here
        return self

    def resolve(
        self, *, elements: tuple[int, ...], e0s: tuple[float, ...], avg_num_neighbors: float, scale: float, shift: float
    ) -> ModelConfig:
        """The ModelConfig with the values derived from the data, used where this section says `auto`.

        Args:
          elements: atomic numbers; a list of the user's own is already merged into it.
          e0s: energies of the isolated atoms (eV).
          avg_num_neighbors, scale (eV), shift (eV): statistics of the training set.
        """
        architecture = self.model_dump(
            exclude={"model", "elements", "num_channels", "max_L", "hidden_irreps", "interaction_first", "scaling"}
        )
        first = "RealAgnostic" if self.model == "MACE" else "RealAgnosticResidual"
        derived: dict[str, Any] = {"avg_num_neighbors": avg_num_neighbors, "scale": scale, "shift": 0.0 if self.model == "MACE" else shift}
        return ModelConfig(
            **{name: value for name, value in architecture.items() if name not in derived},
            **{name: value if architecture[name] == "auto" else architecture[name] for name, value in derived.items()},
            model="ScaleShiftMACE",
            elements=elements,
            e0s=e0s,
            hidden_irreps=self._irreps(),
            interaction_first=self.interaction_first or first,
        )

    def _irreps(self) -> str:
        if self.hidden_irreps is not None:
            return self.hidden_irreps
        channels = 128 if self.num_channels is None else self.num_channels
        top = 1 if self.max_L is None else self.max_L
        return " + ".join(f"{channels}x{degree}{'eo'[degree % 2]}" for degree in range(top + 1))


def atomic_number(element: int | str) -> int:
    """Atomic number of an element given as number or symbol.

    Raises:
      ValueError: no such element.
    """
    number = int(element) if str(element).isdigit() else NUMBERS.get(str(element), 0)
    if not 1 <= number <= 118:
        raise ValueError(f"{element!r} is no element: give a symbol such as Si, or an atomic number from 1 to 118.")
    return number
