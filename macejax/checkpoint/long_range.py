"""Models of mace-torch with long-range electrostatics, which macejax does not have: how they are known, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

CLASSES = ("MACELES", "PolarMACE")
PACKAGES = ("les", "graph_longrange")  # where these classes have their electrostatics from
WEIGHTS = ("les.", "les_readouts.", "lr_source_maps.", "fukui_source_map.", "field_dependent_charges_maps.", "coulomb_energy.")
REFUSED = "long-range electrostatics, which macejax does not have: use it with mace-torch, or take a model without them"


def is_part(module: str, name: str) -> bool:
    """Whether a name that a pickle asks for is that of such a model, or of a part of its electrostatics."""
    package = module.split(".")[0]
    return package in PACKAGES or (package == "mace" and name in CLASSES)


def has_weights(names: Iterable[str]) -> bool:
    """Whether weights of these names belong to such a model."""
    return any(name.startswith(WEIGHTS) for name in names)


def means(name: str) -> bool:
    """Whether a name, of a file that is not there, plainly means such a model: `polar-1-s`, `mace_polar`, `MACELES-OFF`."""
    words = "-" + re.sub(r"\.(model|mace|pt|pth)$", "", name.rsplit("/", 1)[-1].replace("_", "-").lower()) + "-"
    return "." not in words and re.search(r"-(mace-?)?polar\d*-|-mace-?les-", words) is not None
