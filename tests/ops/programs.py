"""What a program is made of, read off before XLA changes it."""

from __future__ import annotations

import re

import jax

_SCATTER = re.compile(r'"stablehlo\.scatter"\(.*?\}\) : (\(.*?\) -> .*?)\n', re.DOTALL)


def scatters(lowered: jax.stages.Lowered) -> list[str]:
    """Types of operands and results of every scatter of `jax.jit(f).lower(...)`.

    The compiled program says nothing: on some versions and flags XLA:CPU writes every scatter out as a loop before it is done.
    """
    text = lowered.as_text()
    found = _SCATTER.findall(text)
    assert bool(found) == ("stablehlo.scatter" in text), "scatters are printed in another way than this expects"
    return found


def shapes(lowered: jax.stages.Lowered) -> set[tuple[int, ...]]:
    """Of all arrays of a program."""
    found = re.findall(r"tensor<((?:\d+x)+)", lowered.as_text())
    return {tuple(map(int, shape.split("x")[:-1])) for shape in found}
