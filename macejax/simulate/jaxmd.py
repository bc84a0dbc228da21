"""macejax in jax-md: a neighbour list in row form and an energy function for its simulations and minimisers.

    neighbor_fn, energy_fn = macejax.simulate.jaxmd.potential(model.config, numbers, box)
    neighbor = neighbor_fn.allocate(R)
    energy_fn(params, R, neighbor)                                  # params are arguments: differentiate by them, vmap over them
    init, apply = jax_md.simulate.nve(jaxmd.position_first(energy_fn), shift, dt)
    state = init(key, R, kT, mass=mass, params=params, neighbor=neighbor)

jax-md's own lists take the nearest image, which needs cells of twice the cutoff; here a cell may be of any size. Its conventions hold: the
columns of `box` are lattice vectors (THE CONTRACT's are rows: cell = box^T); a scalar is a cube and a vector a rectangular box; with
fractional coordinates R_real = box R, and the gradient by R is that by real positions, as jax-md's integrators take it. NPT wants real
coordinates: npt_nose_hoover of jax-md 0.2.29 moves fractional ones by a term that is meant for real ones, and loses its energy. Atoms and
box relax together by `minimize.fire_descent_box`, in fractional coordinates, the list being updated with `box=state.box`; `relax_many` does
so too, in fewer steps (L-BFGS).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.config import ConfigError, ModelConfig
from macejax.data.structure import DataError
from macejax.model.geometry import edge_vectors
from macejax.model.model import Model, build
from macejax.potential import SiteEnergy
from macejax.potential.predict import energies_of
from macejax.simulate import list_shape, row_list
from macejax.simulate.lattice import Pbc
from macejax.simulate.prune import prune
from macejax.simulate.row_list import RowList
from macejax.simulate.system import check_model, e0s_of, graph_of, species_of

USE = 0.8  # of the skin, before a list is renewed
UNUSED = {"kT", "dt", "pressure", "mass", "t", "step", "rng", "key"}  # what jax-md's integrators hand on to every function


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbors:
    """A list of N atoms, as jax-md uses one: `neighbor = neighbor.update(R)` after every step, inside jit or out of it.

    A step computes its forces before the list is updated. The list is therefore renewed when `USE` of the skin is used up; an update that
    finds more used than there is came too late, and is counted.
    """

    rows: RowList
    box: jax.Array  # as it was given last
    num_late: jax.Array  # [] int32, updates before which an energy may have missed an edge; LAMMPS calls them dangerous builds
    fractional: bool = field(metadata={"static": True})

    def update(self, R: jax.Array, box: jax.Array | None = None, **unused: Any) -> Neighbors:
        """The list itself while no atom has moved, and no strain carried it, so far that an edge could be missing; else a new one."""
        _only_known(unused)
        box = self.box if box is None else jnp.asarray(box)
        positions, cell = _real(R, box, self.fractional)
        late = self.num_late + row_list.is_stale(self.rows, positions, cell)
        rows = row_list.update(self.rows, positions, cell, USE)
        if rows.shape.near_slots < rows.shape.slots:
            rows = row_list.watched(rows, row_list.near_degree(rows, positions, cell))
        return replace(self, rows=rows, box=box, num_late=late)

    def is_stale(self, R: jax.Array, box: jax.Array | None = None) -> jax.Array:
        """Whether an energy of these positions could miss an edge: `update` comes before it, then."""
        return row_list.is_stale(self.rows, *_real(R, self.box if box is None else jnp.asarray(box), self.fractional))

    @property
    def did_buffer_overflow(self) -> jax.Array:
        """Whether edges were lost at any update since the allocation: allocate anew, and go back to before it. Later updates keep it."""
        return self.rows.overflow

    @property
    def num_rebuilds(self) -> jax.Array:
        """How often the list was made anew."""
        return self.rows.rebuilds


class NeighborFns(NamedTuple):
    """`allocate(R, extra_capacity=0, box=None)`, outside jit, and `update(R, neighbor, box=None)`, anywhere."""

    allocate: Callable[..., Neighbors]
    update: Callable[..., Neighbors]


EnergyFn = Callable[..., jax.Array]


def potential(
    model: Model | ModelConfig,
    numbers: Sequence[int] | np.ndarray,
    box: Any = None,
    *,
    pbc: bool | Sequence[bool] = True,
    fractional_coordinates: bool = True,
    dr_threshold: float = 0.5,
    near_capacity: float | None = None,
    site_energy: SiteEnergy | None = None,
) -> tuple[NeighborFns, EnergyFn]:
    """The neighbour list and the energy of a model for a system of N atoms.

    `energy_fn(params, R, neighbor, box=None, perturbation=None)` is the interaction energy (eV; E0s are a constant, `e0_sum`). R is [N, 3],
    real (Angstrom) or fractional; it may be wrapped at any time. `box` is that of the list where it is not given. The dtype of R is that of
    positions, that of params the model's. Differentiable by params, R, box and perturbation, to any order; edge vectors come from R and box
    in every call. By `box`, at fixed fractional coordinates: stress = dE/dbox box^T / V, equal to that of `macejax.predict`.

    It is NaN, with all derivatives, where the list has overflowed, and where with `near_capacity` there are too few slots for an atom, of
    which an update at these positions says the same. With a perturbation it computes with all of the list in any case.

    Args:
      model: a Model, of which only the configuration is used, or a ModelConfig.
      numbers: atomic numbers [N].
      box: the first box: a length, three of them or a matrix whose columns are lattice vectors (Angstrom); columns of open directions play
        no role. None where no direction is periodic.
      pbc: which directions are periodic.
      fractional_coordinates: R is in units of the box. Then every direction has a lattice vector.
      dr_threshold: skin (Angstrom): lists reach so far beyond the cutoff, and last until an atom has moved half of it.
      near_capacity: compute with the edges within the cutoff alone, not with all of the list, in so many slots, relative to those that the
        allocated positions need: 1.25, say, with which a step for water takes 0.85 of the time. A list overflows sooner then.
      site_energy: takes the place of the model's own function `(params, vectors [N, M, 3], graph) -> node energies [N]`.

    Raises:
      ConfigError: a model without energies, with several heads (take one: `macejax.model.heads.select_head`), or that embeds more than
        atoms and cell. DataError: no atom, an element that the model does not know, or a periodic direction without a box.
    """
    config = model.config if isinstance(model, Model) else model
    check_model(config)
    if config.joint_embedding:
        raise ConfigError(f"this {config.model} reads inputs beside atoms and cell, which jax-md has no place for: take run_on_device.")
    function = build(config).apply if site_energy is None else site_energy
    if not len(numbers):
        raise DataError("there is no atom, and so no energy.")
    species = species_of(np.asarray(numbers), config.elements)
    periodic = _pbc(pbc if box is not None else _nothing_periodic(pbc, fractional_coordinates))
    start = jnp.eye(3) if box is None else jnp.asarray(box, dtype=jnp.result_type(float))
    if near_capacity is not None and not 1 <= near_capacity < math.inf:
        raise ConfigError(f"near_capacity must be 1 or more, not {near_capacity}.")
    if dr_threshold < 0:
        raise ConfigError(f"dr_threshold must be 0 or more (Angstrom), not {dr_threshold}.")

    def allocate(R: jax.Array, extra_capacity: int = 0, box: Any = None) -> Neighbors:
        R = jnp.asarray(R)
        if R.shape != (len(species.index), 3):
            raise DataError(f"positions have shape {R.shape}; there are {len(species.index)} atoms.")
        box = jnp.asarray(start if box is None else box, R.dtype)
        positions, cell = _real(R, box, fractional_coordinates)
        shape = list_shape.shape_for(
            np.asarray(positions), np.asarray(cell), periodic, config.cutoff, dr_threshold, extra_capacity, near_capacity
        )
        return Neighbors(list_shape.allocate(shape, positions, cell), box, jnp.int32(0), fractional_coordinates)

    def update(R: jax.Array, neighbor: Neighbors, box: Any = None, **unused: Any) -> Neighbors:
        return neighbor.update(R, box, **unused)

    def energy_fn(params: Any, R: jax.Array, neighbor: Neighbors, box: Any = None, perturbation: Any = None, **unused: Any) -> jax.Array:
        _only_known(unused)
        positions, cell = _real(R, neighbor.box if box is None else jnp.asarray(box, R.dtype), fractional_coordinates)
        graph, lost, shape = graph_of(species, positions, cell, neighbor.rows), neighbor.rows.overflow, neighbor.rows.shape
        # A perturbation may bring in more neighbours than there are slots for, and `update` does not see it.
        if shape.near_slots < shape.slots and perturbation is None:
            graph, degrees = prune(graph, shape.cutoff, shape.near_slots)
            lost |= jnp.any(degrees > shape.near_slots)
        vectors = edge_vectors(graph)
        if perturbation is not None:
            vectors = jax_md_space().raw_transform(jnp.asarray(perturbation), vectors)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        energy = jnp.sum(energies_of(function(params, vectors.astype(dtype), graph)).astype(R.dtype))
        return energy * jnp.where(lost, jnp.nan, 1)  # a factor: derivatives are NaN, too

    return NeighborFns(allocate, update), energy_fn


def position_first(energy_fn: EnergyFn) -> EnergyFn:
    """`energy_fn(R, *, params, neighbor, ...)`: the order of arguments that jax-md's simulations and minimisers call, params handed to them
    as `params=...` with the list, step by step.
    """
    return lambda R, *, params, neighbor, **rest: energy_fn(params, R, neighbor, **rest)


def e0_sum(config: ModelConfig, numbers: Sequence[int] | np.ndarray) -> float:
    """Sum of the energies of the isolated atoms (eV): total energy less interaction energy."""
    return float(e0s_of(config, species_of(np.asarray(numbers), config.elements)).sum())


def jax_md_space() -> Any:
    """jax_md.space, which the extra `md` brings."""
    try:
        from jax_md import space
    except ImportError as error:
        raise ImportError("jax-md is not installed: pip install 'macejax[md]'.") from error
    return space


def _real(R: jax.Array, box: jax.Array, fractional: bool) -> tuple[jax.Array, jax.Array]:
    """Real positions [N, 3] and cell [3, 3] (rows), of any of jax-md's kinds of box."""
    matrix = box if box.ndim == 2 else box * jnp.eye(3, dtype=box.dtype)
    return (jax_md_space().transform(matrix, R) if fractional else R), matrix.T


def _pbc(pbc: bool | Sequence[bool]) -> Pbc:
    three = np.broadcast_to(np.asarray(pbc, bool), (3,))
    return bool(three[0]), bool(three[1]), bool(three[2])


def _nothing_periodic(pbc: bool | Sequence[bool], fractional: bool) -> bool:
    if np.any(pbc) or fractional:
        raise DataError("without a box, no direction is periodic and coordinates are real: pbc=False, fractional_coordinates=False.")
    return False


def _only_known(unused: dict[str, Any]) -> None:
    if unknown := set(unused) - UNUSED:
        raise TypeError(f"the potential knows no {', '.join(sorted(unknown))}.")
