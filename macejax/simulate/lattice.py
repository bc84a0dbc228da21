"""Lattice vectors inside a program: completed along open directions, inverted in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Pbc = tuple[bool, bool, bool]


def complete_cell(cell: jax.Array, pbc: Pbc) -> jax.Array:
    """The lattice vectors of the periodic directions [3, 3] (Angstrom, rows), those of open ones replaced by unit vectors across them.

    What `cell` holds for an open direction plays no role.
    """
    periodic = [k for k in range(3) if pbc[k]]
    if len(periodic) == 3:
        return cell
    if not periodic:
        return jnp.eye(3, dtype=cell.dtype)
    rows = {k: cell[k] for k in periodic}
    if len(periodic) == 1:
        (only,) = periodic
        axis = cell[only]
        least = jnp.eye(3, dtype=cell.dtype)[jnp.argmin(jnp.abs(axis))]  # farthest from parallel
        rows[(only + 1) % 3] = _unit(jnp.cross(axis, least))
    (missing,) = (k for k in range(3) if k not in rows)
    rows[missing] = _unit(jnp.cross(rows[(missing + 1) % 3], rows[(missing + 2) % 3]))
    return jnp.stack([rows[k] for k in range(3)])


def inverse(cell: jax.Array) -> jax.Array:
    """Inverse of a [3, 3] matrix by its adjugate: cheap, differentiable, and no call of a linear-algebra library in every step."""
    a, b, c = cell
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return columns / jnp.dot(a, columns[:, 0])


def heights(cell: jax.Array) -> jax.Array:
    """Distances [3] (Angstrom) between opposite faces of a completed cell."""
    return 1 / jnp.linalg.norm(inverse(cell), axis=0)


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.linalg.norm(vector)
