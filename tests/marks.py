"""Which parameters of a test run by default."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_is_thorough(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Parameters of which only those in `quick` run by default; `make thorough` runs the others."""
    values = list(values)
    assert {*quick} <= {*values}, "a default case that is not there"
    return [value if value in quick else pytest.param(value, marks=pytest.mark.thorough) for value in values]
