"""Values of flags that are Python or JSON literals in a text."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from macejax.config.model import atomic_number
from macejax.data.species import SYMBOLS


def literal(text: Any) -> Any:
    """The Python literal in a text; what is no text is returned as it is.

    Raises:
      ValueError: the text is no literal.
    """
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} cannot be read as a Python literal") from None


def integers(text: Any) -> list[int]:
    """A list such as "[64, 64, 64]"."""
    value = literal(text)
    if not isinstance(value, list | tuple) or not all(isinstance(x, int) for x in value):
        raise ValueError(f"{text!r} is no list of integers")
    return list(value)


def weights(text: Any) -> dict[str, float]:
    """A table such as '{"Default": 1.0}', without the entries that are 1 and therefore without effect."""
    value = literal(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is no table of weights")
    return {str(name): _number(weight, name) for name, weight in value.items() if weight != 1}


def energies(text: Any) -> dict[str, float]:
    """A table such as "{1: -13.6, 8: -2042.0}" by chemical symbol."""
    value = literal(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is no table of energies")
    return {SYMBOLS[atomic_number(element)]: _number(energy, element) for element, energy in value.items()}


def read_json(name: str) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(Path(name).read_text())
    except OSError as error:
        raise ValueError(f"the file {name} cannot be read ({error.strerror}): migrate in the folder where mace_run_train runs") from None
    except ValueError:
        raise ValueError(f"the file {name} is not JSON") from None


def _number(value: Any, name: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r}, given for {name!r}, is no number")
    return float(value)
