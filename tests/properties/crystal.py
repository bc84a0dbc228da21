"""Crystals of the toy, padded to one shape, so that the elastic tensor is compiled once for all tests."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from macejax.data.batch import Capacity, batch
from macejax.data.graph import build_graph
from macejax.data.read import from_atoms
from macejax.properties.elastic import Elastic, elastic_tensor
from macejax.simulate import Calculator
from tests.differentiate.small import toy


def padded(atoms: Atoms):
    """Graph of one or two atoms, in room for three."""
    site_energy, model = toy()
    graph = build_graph(from_atoms(atoms), model.config.elements, model.config.cutoff + 0.5)
    return jax.tree.map(jnp.asarray, batch([graph], Capacity(3, 64, 3, 1), np.float64))


def elastic(graph) -> Elastic:
    return _compiled()(graph)


def calculator() -> Calculator:
    site_energy, model = toy()
    return Calculator(model, site_energy=site_energy)


@functools.cache
def _compiled():
    site_energy, model = toy()
    return jax.jit(lambda graph: elastic_tensor(site_energy, model.params, graph))
