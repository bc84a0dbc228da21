"""Dipoles and polarizabilities of structures, and their derivatives by positions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.model.geometry import edge_vectors, sum_per_graph
from macejax.model.sites import Sites


def _tensor_basis() -> np.ndarray:
    """Orthonormal symmetric tensors [6, 3, 3]: one third of the trace, and those of degree 2 in the order of e3nn."""
    x, y, z = np.eye(3)

    def symmetric(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (np.outer(a, b) + np.outer(b, a)) / math.sqrt(2)

    square = [np.outer(axis, axis) for axis in (x, y, z)]
    uniaxial, biaxial = (2 * square[1] - square[0] - square[2]) / math.sqrt(6), (square[2] - square[0]) / math.sqrt(2)
    return np.stack([np.eye(3) / math.sqrt(3), symmetric(x, z), symmetric(x, y), uniaxial, symmetric(y, z), biaxial])


TENSOR_BASIS = _tensor_basis()


class Moments(NamedTuple):
    """Dipoles and polarizabilities of a batch; zeros on padding. Dipoles are in the unit of the model, `ModelConfig.dipole_unit`.

    The dipole of a charged structure refers to the origin of the coordinates, that of a periodic one to the images of its atoms, both as
    they were in the input.
    """

    dipole: jax.Array  # [G, 3], atomic dipoles and charges together
    atomic_dipoles: jax.Array  # [N, 3], without the charges
    charges: jax.Array  # [N] e, predicted or, where the model does not predict them, given
    polarizability: jax.Array | None  # [G, 3, 3], in the unit of its labels
    polarizability_sh: jax.Array | None  # [G, 6], its spherical components, trace / sqrt(3) first


class MomentDerivatives(NamedTuple):
    """Derivatives by the position of every atom, those of the structure to which it belongs; zeros on padding."""

    dipole: jax.Array  # [N, 3, 3], d mu_a / d r_b, in the unit of the dipole per Angstrom
    polarizability: jax.Array | None  # [N, 3, 3, 3], d alpha_ab / d r_c


def predict_moments(sites: Any, params: Any, graph: jraph.GraphsTuple) -> Moments:
    """Dipole and polarizability of every structure of a batch, without a backward pass.

    Args:
      sites: `(params, vectors [N, M, 3], graph) -> Sites`, of the Flax module of a model of moments its `apply`.
      params: parameters of the model.
      graph: batch in row form (macejax/README.md).

    Raises:
      ValueError: the model has no dipoles.
    """
    found = sites(params, edge_vectors(graph), graph)
    if not isinstance(found, Sites) or found.dipole is None:
        raise ValueError("this model predicts energies, and has no dipoles.")
    return assemble_moments(found, graph)


def moment_derivatives(sites: Any, params: Any, graph: jraph.GraphsTuple) -> MomentDerivatives:
    """d mu/dr, for infrared intensities, and d alpha/dr, for those of Raman scattering; in reverse mode, 3 or 9 passes.

    Args:
      sites, params, graph: as for `predict_moments`.
    """

    def totals(positions: jax.Array) -> jax.Array:
        moved = graph._replace(nodes={**graph.nodes, "positions": positions})
        moments = predict_moments(sites, params, moved)
        parts = [moments.dipole] + ([] if moments.polarizability_sh is None else [moments.polarizability_sh])
        return jnp.sum(jnp.concatenate(parts, axis=1), axis=0)  # structures do not see each other: a sum keeps their derivatives apart

    found, pullback = jax.vjp(totals, graph.nodes["positions"])
    rows = jax.vmap(lambda row: pullback(row)[0])(jnp.eye(found.shape[0], dtype=found.dtype))  # [3 or 9, N, 3]
    by_atom = jnp.where(graph.nodes["mask"][:, None, None], jnp.swapaxes(rows, 0, 1), 0)
    if found.shape[0] == 3:
        return MomentDerivatives(by_atom, None)
    basis = jnp.asarray(TENSOR_BASIS, found.dtype)
    return MomentDerivatives(by_atom[:, :3], jnp.einsum("nkc,kab->nabc", by_atom[:, 3:], basis, precision=jax.lax.Precision.HIGHEST))


def assemble_moments(sites: Sites, graph: jraph.GraphsTuple) -> Moments:
    """Linear map from the moments of atoms to those of structures."""
    assert sites.dipole is not None and sites.charge_dipole is not None and sites.charge is not None
    dipole = sum_per_graph(sites.dipole + sites.charge_dipole, graph)
    if sites.polarizability is None:
        return Moments(dipole, sites.dipole, sites.charge, None, None)
    spherical = sum_per_graph(sites.polarizability, graph)
    tensor = jnp.einsum("gk,kab->gab", spherical, jnp.asarray(TENSOR_BASIS, spherical.dtype), precision=jax.lax.Precision.HIGHEST)
    return Moments(dipole, sites.dipole, sites.charge, tensor, spherical)
