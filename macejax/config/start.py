"""Fine-tuning: the model whose weights a run starts from."""

from __future__ import annotations

from pydantic import Field, model_validator

from macejax.config.optimize import changed
from macejax.config.section import Section

KEPT = ("heads", "elements")  # options of the section `model` that say something beside the architecture of the model to start from
OF_START = ("foundation", "estimated")  # values of data.e0s that need a model to start from


class StartConfig(Section):
    """The model whose weights training starts from (fine-tuning). Its architecture, scale, shift and neighbour count are kept, and of its
    elements those of the data, or those that model.elements names.
    """

    model: str | None = Field(
        None,
        description="Model file, of macejax or mace-torch, or name of a published model; it is cut to the elements of the data, or to "
        "model.elements. null: random weights of the section model.",
    )
    head: str | None = Field(
        None,
        description="Head (level of theory) of that model whose readouts those heads of the data start with that it lacks, or the only "
        "head of the data, whatever its name. null: its only one. Other heads of the data go on with their own.",
    )

    @model_validator(mode="after")
    def _head_of_some_model(self) -> StartConfig:
        if self.model is None and changed(self, ["head"]):
            raise ValueError("head has no effect without start.model: name a model, or leave it out.")
        return self


def require_kept(section: Section) -> None:
    """Refuse an option of the section `model` beside a model to start from, which has its own.

    Raises:
      ValueError: names it.
    """
    if idle := changed(section, [name for name in type(section).model_fields if name not in KEPT]):
        raise ValueError(f"model.{idle[0]} has no effect beside start.model, whose architecture is kept: leave one of them out.")
