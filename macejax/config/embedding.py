"""Inputs of a model beside the structure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from macejax.config.section import Section


class EmbeddingConfig(Section):
    """How an input beside the structure, such as the total charge, becomes features."""

    name: str = Field(description="total_charge, total_spin, charges, or a name in data.keys.inputs, such as elec_temp.")
    type: Literal["categorical", "continuous"] = Field(
        description="categorical: a whole number, one vector for each; continuous: a number through a small network."
    )
    per: Literal["graph", "atom"] = Field("graph", description="One value for the structure, or one for each atom.")
    emb_dim: int = Field(ge=1, description="Features that it becomes.")
    num_classes: int | None = Field(None, ge=1, description="categorical: how many numbers there are.")
    offset: int = Field(0, description="categorical: added to the number, so that the lowest becomes 0.")
    in_dim: int = Field(1, ge=1, description="continuous: values for each atom.")
    use_bias: bool = Field(True, description="continuous: the network has biases.")

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> EmbeddingConfig:
        if (self.type == "categorical") != (self.num_classes is not None):
            raise ValueError(f"num_classes is needed by a categorical embedding, and by no other; the type is {self.type}.")
        if self.type == "categorical" and (self.in_dim, self.use_bias) != (1, True):
            raise ValueError("in_dim and use_bias have no effect on a categorical embedding: leave them out.")
        if self.type == "continuous" and self.offset:
            raise ValueError("offset has no effect on a continuous embedding: leave it out.")
        if self.per == "graph" and self.in_dim != 1:
            raise ValueError("in_dim above 1 is for values of atoms (per: atom); a structure has one value.")
        return self
