"""Inputs of a model beside atoms and cell: total charge, spin, temperature of the electrons, and which head is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from macejax.data.structure import DataError, Structure

# What a structure has by itself; other names are looked up in `Structure.inputs`.
OWN = ("total_charge", "total_spin", "charges")


class Embedding(Protocol):
    """What must be known of an input here: `EmbeddingConfig` is one."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str:
        """categorical or continuous."""

    @property
    def per(self) -> str:
        """graph or atom."""

    @property
    def num_classes(self) -> int | None: ...

    @property
    def offset(self) -> int: ...

    @property
    def in_dim(self) -> int: ...


def read_inputs(structure: Structure, embeddings: Sequence[Embedding]) -> dict[str, np.ndarray]:
    """The inputs that a model embeds, float64: [] for the structure, [N] or [N, values] for atoms.

    Raises:
      DataError: an input is missing, has the wrong shape, or is a number that the model has no vector for.
    """
    return {spec.name: _read(structure, spec) for spec in embeddings}


def head_index(structure: Structure, heads: Sequence[str]) -> int:
    """Place of the structure's head among those of the model; a model with one head takes every structure.

    Raises:
      DataError: the model has several heads, and not this one.
    """
    if len(heads) == 1:
        return 0
    if structure.head not in heads:
        where = structure.source or "structure"
        raise DataError(f"{where}: head {structure.head!r} is none of the model's ({', '.join(heads)}): name one of them (key 'head').")
    return list(heads).index(structure.head)


def require_whole_charges(structures: Sequence[Structure]) -> None:
    """Refuse charges that some atoms of a structure have and others lack: a dipole cannot be made of them. No charges at all count as 0.

    Raises:
      DataError: names the structure.
    """
    for structure in structures:
        if structure.charges is not None and np.isnan(structure.charges).any():
            where = structure.source or "structure"
            raise DataError(f"{where}: some atoms have no charge (NaN), so that its dipole is unknown: give all charges or none.")


def _read(structure: Structure, spec: Embedding) -> np.ndarray:
    where, name = structure.source or "structure", spec.name
    value = getattr(structure, name) if name in OWN else structure.inputs.get(name)
    if value is None:
        raise DataError(f"{where}: the model needs {name}, which the structure lacks (info for a structure, arrays for atoms).")
    array = np.asarray(value, np.float64)
    number = len(structure.numbers)
    shapes: list[tuple[int, ...]] = [()] if spec.per == "graph" else [(number, spec.in_dim)] + [(number,)] * (spec.in_dim == 1)
    if array.shape not in shapes:
        raise DataError(f"{where}: {name} has shape {array.shape}, where the model needs {' or '.join(map(str, shapes))}.")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: {name} is not finite.")
    if spec.type == "categorical":
        places = array + spec.offset
        if (places != np.round(places)).any() or (places < 0).any() or (places >= spec.num_classes).any():
            low, high = -spec.offset, spec.num_classes - 1 - spec.offset
            raise DataError(f"{where}: {name} is {value}, where the model knows whole numbers from {low} to {high}.")
    return array
