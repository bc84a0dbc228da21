"""Second derivatives of the energy: the Hessian, and its product with a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.potential.deform import place
from macejax.potential.predict import SiteEnergy, assemble, edge_gradient


def forces_at(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, positions: jax.Array) -> jax.Array:
    """Forces [N, 3] (eV/Angstrom) on the atoms of the batch, were they at `positions` [N, 3] (Angstrom)."""
    moved = place(graph, positions)
    return assemble(*edge_gradient(site_energy, params, moved), moved).forces


def hessian_vector_product(site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, direction: jax.Array) -> jax.Array:
    """d2E/dr dr . direction, [N, 3] (eV/Angstrom^2 times the unit of `direction`): forward mode over the reverse-mode forces.

    Costs about three evaluations of the energy, and no more memory: the Hessian is never made.

    Args:
      site_energy, params, graph: as for `macejax.potential.predict`.
      direction: [N, 3].
    """

    def gradient(x: jax.Array) -> jax.Array:
        return -forces_at(site_energy, params, graph, x)

    return jax.jvp(gradient, (graph.nodes["positions"],), (direction,))[1]


def hessian(
    site_energy: SiteEnergy, params: Any, graph: jraph.GraphsTuple, *, chunk: int = 32, of: Sequence[int] | None = None
) -> jax.Array:
    """d2E/dr_ia dr_jb of a batch, [N, 3, N, 3] (eV/Angstrom^2); zero on padding and between structures.

    Forward mode over the reverse-mode forces, `chunk` columns at a time, so that memory grows with the chunk and not with 3 N.

    Args:
      site_energy, params, graph: as for `macejax.potential.predict`.
      chunk: columns evaluated together.
      of: n atoms whose rows alone are wanted, [n, 3, N, 3]; time grows with n.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}.")
    positions, real = graph.nodes["positions"], graph.nodes["mask"]

    def gradient(x: jax.Array) -> jax.Array:
        moved = graph._replace(nodes={**graph.nodes, "positions": x})  # its low parts too: they mend the value, not the derivative
        return -assemble(*edge_gradient(site_energy, params, moved), moved).forces

    _, linear = jax.linearize(gradient, positions)
    size = positions.size
    atoms = np.arange(len(positions)) if of is None else np.asarray(of, np.int32)
    wanted = jnp.asarray((3 * atoms[:, None] + np.arange(3)).ravel())
    columns = jax.lax.map(
        lambda k: linear((jnp.arange(size) == k).astype(positions.dtype).reshape(positions.shape)),
        wanted,
        batch_size=min(chunk, max(wanted.size, 1)),
    )  # column k holds d(gradient)/dx_k, and the matrix is symmetric
    columns = columns.reshape((len(atoms), 3) + positions.shape)
    return jnp.where((real[atoms][:, None] & real)[:, None, :, None], columns, 0)
