"""ase.Atoms -> the structure that a model sees: atoms and cell, and what else the model embeds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms

from macejax.config import ModelConfig
from macejax.data.inputs import OWN
from macejax.data.structure import DataError, Structure, check
from macejax.simulate.dielectric import FIXED_CHARGES, fixed_charges

# Where `atoms.info` has what a model may embed, as in mace-torch's calculator; other inputs have their own names.
INFO_KEYS: Mapping[str, str] = MappingProxyType({"total_charge": "charge", "total_spin": "spin"})


def structure_of(atoms: Atoms, config: ModelConfig, info_keys: Mapping[str, str] = INFO_KEYS, source: str = "") -> Structure:
    """The structure, checked, with the inputs of the model: of the structure from `atoms.info`, of atoms from `atoms.arrays`.

    Args:
      atoms: what ASE has.
      config: of the model.
      info_keys: name of an input -> its name there; an input's own name is understood too.
      source: what an error is about.

    Raises:
      DataError: the structure cannot be used.
    """
    structure = Structure(atoms.numbers, atoms.positions.copy(), atoms.cell.array.copy(), atoms.pbc.copy(), source=source)
    found: dict[str, Any] = {}
    for spec in config.joint_embedding:
        found |= _look_up(atoms.info if spec.per == "graph" else atoms.arrays, spec.name, info_keys, source)
    if config.has_moments:
        found["charges"] = fixed_charges(atoms, config, info_keys.get("charges", FIXED_CHARGES))
        found |= _look_up(atoms.info, "total_charge", info_keys, source)
    own = {name: found.pop(name) for name in OWN if name in found}
    return check(structure._replace(**own, inputs=found))


def _look_up(owner: Mapping[str, Any], name: str, info_keys: Mapping[str, str], source: str) -> dict[str, Any]:
    """An input by the name that it has, if it is there."""
    there = [key for key in dict.fromkeys((info_keys.get(name, name), name)) if key in owner]
    if len(there) == 2 and not np.array_equal(owner[there[0]], owner[there[1]]):
        raise DataError(f"{source or 'atoms'}: {there[0]!r} and {there[1]!r} contradict each other: leave one of them out.")
    return {name: owner[there[0]]} if there else {}
