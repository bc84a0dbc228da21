"""What a model is (`ModelConfig`), and what a user asks for (`ModelSection`), some of which is derived from the data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from macejax.config.architecture import Architecture
from macejax.config.predicts import NOT_OF_MOMENTS, PREDICTS, ModelName
from macejax.config.section import Section
from macejax.data.species import NUMBERS, SYMBOLS, covalent_radii

_TERM = re.compile(r"x\s*(\d+)([eo])")  # degree and parity
# Blocks whose radial network reads more than radial functions, or has biases. In mace_run_train their energies jump at the cutoff, unless
# the weights are cut off.
UNCUT = ("RealAgnosticAttResidual", "RealAgnosticResidualNonLinear")


class RadialTableConfig(Section):
    """Sizes of the tables that stand for radial networks (macejax/model/tabulate.py)."""

    intervals: int = Field(ge=1, description="Intervals from 0 to the cutoff.")
    functions: tuple[int, ...] = Field(description="Functions in the table of each interaction.")


class ModelConfig(Architecture):
    """Everything that, beside its parameters, defines a MACE. Defaults are those of mace_run_train."""

    model: ModelName = Field(
        "ScaleShiftMACE",
        description="MACE ignores scale and shift; ScaleShiftMACE applies them; the others predict moments (macejax/model/moments.py).",
    )
    elements: tuple[int, ...] = Field(description="Atomic numbers that the model knows, ascending.")
    heads: tuple[str, ...] = Field(("Default",), min_length=1, description="Names of the levels of theory that the model has.")
    e0s: tuple[float, ...] | tuple[tuple[float, ...], ...] = Field(
        description="Energy of each isolated atom (eV), in the order of elements; for several heads, one such list for each."
    )
    hidden_irreps: str = Field(
        "128x0e + 128x1o", description="Irreps of the node features, 0e first, ascending degree, equal multiplicities."
    )
    interaction_first: str = Field("RealAgnostic", description="Block of the first layer.")
    avg_num_neighbors: float = Field(
        1.0,
        gt=0,
        description="Mean neighbour count over atoms that have one; messages are divided by it, but in blocks with a density, which have "
        "their own measure.",
    )
    scale: float | tuple[float, ...] = Field(1.0, description="Factor on the summed readouts of each atom (eV), or one for each head.")
    shift: float | tuple[float, ...] = Field(0.0, description="Added to each atom's energy after scaling (eV), or one for each head.")
    radial_table: RadialTableConfig | None = Field(None, description="Tables in place of radial networks, as macejax.tabulate makes them.")

    @field_validator("elements")
    @classmethod
    def _elements_are_atomic_numbers(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] < 1 or value[-1] > 118:
            raise ValueError(f"elements must be distinct atomic numbers from 1 to 118 in ascending order, not {list(value)}.")
        return value

    @model_validator(mode="after")
    def _lengths_agree(self) -> ModelConfig:
        check_head_names(self.heads)
        for row in self.e0_table:
            if len(row) != len(self.elements):
                raise ValueError(f"e0s has {len(row)} values for {len(self.elements)} elements.")
        for name, values in (("e0s", self.e0_table), ("scale", self.scales), ("shift", self.shifts)):
            if len(values) != len(self.heads):
                raise ValueError(f"{name} is for {len(values)} heads, but there are {len(self.heads)} ({', '.join(self.heads)}).")
        names = [spec.name for spec in self.joint_embedding]
        if len(set(names)) != len(names):
            raise ValueError(f"joint_embedding must have every input once, not {names}.")
        if self.embedding_readout and not self.joint_embedding:
            raise ValueError("embedding_readout has nothing to read without joint_embedding.")
        if self.last_readout_only and self.num_interactions == 1:
            raise ValueError("last_readout_only has no effect on one layer: leave it out.")
        if self.radial_table is not None and len(self.radial_table.functions) != self.num_interactions:
            raise ValueError(f"radial_table has {len(self.radial_table.functions)} tables for {self.num_interactions} interactions.")
        orders = (self.correlation,) if isinstance(self.correlation, int) else self.correlation
        if any(not 1 <= order <= 4 for order in orders):
            raise ValueError(f"correlation must be from 1 to 4, not {self.correlation}.")
        if not isinstance(self.correlation, int) and len(orders) != self.num_interactions:
            raise ValueError(f"correlation has {len(orders)} values for {self.num_interactions} interactions.")
        return self

    @model_validator(mode="after")
    def _moments_have_no_more(self) -> ModelConfig:
        if self.has_moments:
            _check_moments(self)
        return self

    @property
    def has_energies(self) -> bool:
        """Whether the model predicts energies, forces and stresses."""
        return "energy" in PREDICTS[self.model]

    @property
    def has_moments(self) -> bool:
        """Whether the model predicts dipoles."""
        return "dipole" in PREDICTS[self.model]

    @property
    def dipole_unit(self) -> str:
        """Unit of dipoles and of their labels, that of mace-torch."""
        return "e Angstrom" if self.model == "AtomicDielectricMACE" else "Debye"

    @property
    def e0_table(self) -> tuple[tuple[float, ...], ...]:
        """E0s of each head (eV), in the order of elements."""
        return self.e0s if self.e0s and isinstance(self.e0s[0], tuple) else (self.e0s,)  # type: ignore[return-value]

    @property
    def scales(self) -> tuple[float, ...]:
        """Scale of each head (eV)."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,) * len(self.heads)

    @property
    def shifts(self) -> tuple[float, ...]:
        """Shift of each head (eV)."""
        return self.shift if isinstance(self.shift, tuple) else (self.shift,) * len(self.heads)


class ModelSection(Architecture):
    """The architecture that a training run asks for. What is `auto` is derived from the training set."""

    model: ModelName = Field(
        "MACE",
        description="As in mace_run_train, both apply a scale. MACE: first block RealAgnostic, shift 0. ScaleShiftMACE: first block "
        "RealAgnosticResidual, shift = mean interaction energy per atom (0 with scaling no_scaling). AtomicDipolesMACE learns dipoles, "
        "EnergyDipolesMACE also energies, AtomicDielectricMACE dipoles and polarizabilities; they have neither scale nor shift.",
    )
    heads: tuple[str, ...] | Literal["auto"] = Field(
        "auto", description="Levels of theory, each with readouts of its own. auto: those of the training set (data.keys.head)."
    )
    elements: tuple[int | str, ...] | Literal["auto"] = Field(
        "auto", description="Elements that the model knows, as symbols or atomic numbers. auto: those of the training and validation sets."
    )
    num_channels: int | None = Field(None, ge=1, description="Channels of every irrep, with max_L instead of hidden_irreps. null: 128.")
    max_L: int | None = Field(
        None, ge=0, description="Highest degree of the node features, with num_channels instead of hidden_irreps. null: 1."
    )
    hidden_irreps: str | None = Field(
        None, description="Irreps of the node features, such as '128x0e + 128x1o'. null: from num_channels and max_L."
    )
    interaction_first: str | None = Field(
        None, description="Block of the first layer. null: RealAgnosticResidual for ScaleShiftMACE, RealAgnostic for the others."
    )
    avg_num_neighbors: float | Literal["auto"] = Field(
        "auto",
        description="Messages are divided by it, but in blocks with a density, which have their own measure. auto: mean neighbour count of "
        "the training set.",
    )
    scaling: Literal["rms_forces_scaling", "std_scaling", "no_scaling"] = Field(
        "rms_forces_scaling", description="Where scale comes from: rms force component, standard deviation of the energy per atom, or 1."
    )
    scale: float | Literal["auto"] = Field("auto", description="Factor on each atom's energy (eV). auto: by `scaling`.")
    shift: float | Literal["auto"] = Field("auto", description="Added to each atom's energy (eV). auto: by `model`.")

    @field_validator("elements")
    @classmethod
    def _symbols_to_numbers(cls, value: tuple[int | str, ...] | str) -> tuple[int, ...] | str:
        if value == "auto":
            return value
        numbers = sorted(atomic_number(element) for element in value)
        for number, following in pairwise(numbers):
            if number == following:
                raise ValueError(f"{SYMBOLS[number]} is named twice: name every element once.")
        return tuple(numbers)

    @field_validator("heads")
    @classmethod
    def _heads_have_names(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not isinstance(value, str):
            check_head_names(value)
        return value

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
        for block in (self.interaction_first, self.interaction):
            if self.apply_cutoff and block in UNCUT:
                raise ValueError(
                    f"{block} has radial weights that do not vanish with the radial functions, so that energies would jump at the cutoff: "
                    f"set apply_cutoff to false."
                )
        if self.so3 and "o" in self._irreps():
            raise ValueError(f"without parity (so3) no harmonic reaches irreps such as 1o of {self._irreps()!r}: write 1e.")
        if self.edge_irreps is not None and (lost := lost_irrep(self.edge_irreps, self._irreps())):
            raise ValueError(f"edge_irreps {self.edge_irreps!r} have {lost}, which features have in the other parity alone: write that.")
        # an architecture that is wrong is told here
        self.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=1.0, scale=1.0, shift=0.0)
        return self

    def resolve(
        self,
        *,
        elements: tuple[int, ...],
        e0s: tuple[Any, ...],
        avg_num_neighbors: float,
        scale: float | tuple[float, ...],
        shift: float | tuple[float, ...],
        heads: tuple[str, ...] = ("Default",),
    ) -> ModelConfig:
        """The ModelConfig with the values derived from the data, used where this section says `auto`.

        Args:
          elements: atomic numbers; a list of the user's own is already merged into it.
          e0s: energies of the isolated atoms (eV), or a row of them for each head.
          avg_num_neighbors: of the training set.
          scale, shift: statistics of the training set, or of each head (eV).
          heads: names of the heads.

        Raises:
          ValueError: options that contradict each other, a repulsion that reaches beyond the cutoff, or heads that cannot be called so.
        """
        check_head_names(heads)  # in a sentence, where ModelConfig would say it in pydantic's words
        architecture = self.model_dump(
            exclude={"model", "heads", "elements", "num_channels", "max_L", "hidden_irreps", "interaction_first", "scaling"}
        )
        moments = "dipole" in PREDICTS[self.model]
        if moments and self.scaling == "std_scaling":
            raise ValueError(f"{self.model} has no scale: leave model.scaling out.")
        if self.pair_repulsion:
            _require_end_of_repulsion(elements, self.cutoff)
        first = "RealAgnosticResidual" if self.model == "ScaleShiftMACE" else "RealAgnostic"
        derived: dict[str, Any] = {
            "avg_num_neighbors": avg_num_neighbors,
            "scale": 1.0 if moments else scale,
            "shift": shift if self.model == "ScaleShiftMACE" else 0.0,
        }
        return ModelConfig(
            **{name: value for name, value in architecture.items() if name not in derived},
            **{name: value if architecture[name] == "auto" else architecture[name] for name, value in derived.items()},
            model=self.model if moments else "ScaleShiftMACE",
            heads=heads,
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
        return " + ".join(f"{channels}x{degree}{'e' if self.so3 else 'eo'[degree % 2]}" for degree in range(top + 1))


def check_head_names(heads: Sequence[str]) -> None:
    """Refuse names of heads that no list could hold, or that could not be told apart.

    Raises:
      ValueError: there is none, one is empty or has a comma, or two are the same.
    """
    if not heads:
        raise ValueError("there must be one head at least.")
    for head in heads:
        if not head.strip() or "," in head:
            raise ValueError(f"a head cannot be called {head!r}: a name has one character at least, and no comma.")
    if len(set(heads)) != len(heads):
        raise ValueError(f"heads must have different names, not {list(heads)}.")


def lost_irrep(edge: str, hidden: str) -> str | None:
    """The first of the edge irreps that features have in the other parity alone, so that nothing of it would be sent: a mistake. Degrees
    that features lack are none, for published models have such.
    """
    made = set(_TERM.findall(hidden))
    for degree, parity in _TERM.findall(edge):
        if (degree, parity) not in made and (degree, "eo"[parity == "e"]) in made:
            return f"{degree}{parity}"
    return None


def atomic_number(element: int | str) -> int:
    """Atomic number of an element given as number or symbol.

    Raises:
      ValueError: no such element.
    """
    number = int(element) if str(element).isdigit() else NUMBERS.get(str(element), 0)
    if not 1 <= number <= 118:
        raise ValueError(f"{element!r} is no element: give a symbol such as Si, or an atomic number from 1 to 118.")
    return number


def _require_end_of_repulsion(elements: tuple[int, ...], cutoff: float) -> None:
    """Refuse a repulsion that is cut off before it ends, as that of mace-torch would be."""
    radius, widest = max(zip(covalent_radii(elements).tolist(), elements, strict=True))
    if 2 * radius > cutoff:
        raise ValueError(
            f"the repulsion of two atoms of {SYMBOLS[widest]} ends at {2 * radius:.2f} Angstrom; at the cutoff of {cutoff:g} energies "
            f"would jump: raise model.cutoff, or leave model.pair_repulsion out."
        )


def _check_moments(config: ModelConfig) -> None:
    """Refuse options that a model of dipoles and polarizabilities does not have.

    Raises:
      ValueError: names the first one.
    """
    absent = list(NOT_OF_MOMENTS) + (["radial_basis"] if config.model == "EnergyDipolesMACE" else [])
    for name in absent:
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ValueError(f"{config.model} has no {name}: leave it out.")
    if not isinstance(config.correlation, int):
        raise ValueError(f"correlation of {config.model} is one number, the same for every layer.")
    if not config.has_energies and any(config.e0_table[0]):
        raise ValueError(f"{config.model} has no energies: its e0s are all 0.")
