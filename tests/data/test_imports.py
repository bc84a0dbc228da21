"""The data layer is numpy: workers must start without jax, and a command without waiting for ASE."""

from __future__ import annotations

import subprocess
import sys

import pytest

import macejax.data

SCRIPT = """
import sys
import numpy as np
{statement}
from macejax.data.structure import Structure
{use}
heavy = sorted({heavy} & set(sys.modules))
assert not heavy, heavy
"""
MODULES = (
    "structure",
    "labels",
    "extxyz",
    "read",
    "write",
    "species",
    "neighbors",
    "graph",
    "batch",
    "order",
    "loader",
    "shapes",
    "statistics",
)


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        ("; ".join(f"import macejax.data.{name}" for name in MODULES), ""),
        ("import macejax.data", "macejax.data.order(5, 0, 0); macejax.data.elements_of([Structure(np.array([1]), np.zeros((1, 3)))])"),
    ],
    ids=["every module", "the package"],
)
def test_nothing_heavy_is_imported(statement: str, use: str) -> None:
    script = SCRIPT.format(statement=statement, use=use, heavy={"jax", "jraph", "ase", "torch", "flax", "vesin"})
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_worker_builds_graphs_without_jax() -> None:
    use = """
from macejax.data.graph import build_graph
graph = build_graph(Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 1]])), (1,), 3.0)
assert len(graph.senders) == 2
"""
    script = SCRIPT.format(statement="", use=use, heavy={"jax", "jraph", "flax"})  # vesin imports ase and torch where they are installed
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    for name in macejax.data.__all__:
        assert getattr(macejax.data, name).__doc__, name
