"""Elements and their indices."""

from __future__ import annotations

import ase.data
import numpy as np
import pytest

from macejax.data.species import NUMBERS, SYMBOLS, elements_of, names, species_index
from macejax.data.structure import DataError
from tests import structures as zoo


def test_symbols_are_those_of_ase() -> None:
    assert list(SYMBOLS) == list(ase.data.chemical_symbols)
    assert {symbol: number for symbol, number in ase.data.atomic_numbers.items() if number} == NUMBERS


def test_elements_of_the_zoo() -> None:
    assert elements_of(zoo.structure(name) for name in zoo.ZOO) == zoo.ELEMENTS


def test_index() -> None:
    index = species_index(np.array([8, 1, 6, 1]), (1, 6, 8))
    assert index.tolist() == [2, 0, 1, 0]
    assert index.dtype == np.int32


@pytest.mark.parametrize("foreign", [2, 118])
def test_unknown_element_is_named_with_the_known_ones(foreign: int) -> None:
    with pytest.raises(DataError, match=rf"b\.xyz:frame 0: contains {names([foreign])}; the model knows only H, C, O\."):
        species_index(np.array([1, foreign]), (1, 6, 8), "b.xyz:frame 0")
