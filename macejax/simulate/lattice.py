"""Lattice vectors inside a program: completed along open directions, and how far apart the faces of a cell are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from macejax.simulate.matrices import inverse

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


def heights(cell: jax.Array) -> jax.Array:
    """Distances [3] (Angstrom) between opposite faces of a completed cell."""
    return 1 / jnp.linalg.norm(inverse(cell), axis=0)


def needed_reach(cutoff: float, farthest: Any, now: Any, then: Any) -> Any:
    """How far edges had to reach (Angstrom) for all pairs that are within the cutoff now to have been found, [...].

    With F the deformation of the cell since, an atom that was at x0 is at x = x0 F + u. A pair within the cutoff now, |r| <= cutoff, was at
    r0 = (r - u_j + u_i) F^-1, so |r0| <= (cutoff + 2 max |u|) ||F^-1||, and ||F^-1|| <= 1 + ||F^-1 - 1||, Frobenius.

    Args:
      farthest: max |u| (Angstrom) [...]; a motion common to all atoms need not count.
      now, then: cells [..., 3, 3], completed along open directions.
    """
    xp = now.__array_namespace__()
    stretch = 1 + xp.sqrt(xp.sum((inverse(now) @ then - xp.eye(3, dtype=now.dtype)) ** 2, axis=(-2, -1)))
    return (cutoff + 2 * farthest) * xp.where(xp.all(now == then, axis=(-2, -1)), 1, stretch)


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.linalg.norm(vector)
