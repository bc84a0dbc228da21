"""Gradients of ensemble averages from stored frames, without a derivative of the trajectory (DiffTRe).

Thaler and Zavadlav, Nat. Commun. 12, 6884 (2021): frames that were drawn with reference parameters serve parameters nearby, each with the
weight w_t ~ exp(-(U(theta) - U(reference)) / kT) (eq. 5 and 6). The derivative of the weighted average is the exact one of the ensemble, in
the limit of many frames, however chaotic the dynamics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from ase import units
from numpy.typing import DTypeLike

from macejax.data.batch import batch, capacity_for, stack
from macejax.data.graph import build_graph
from macejax.data.structure import Structure
from macejax.differentiate.errors import DerivativeError
from macejax.potential import SiteEnergy, energy

BOLTZMANN = units.kB  # eV/K
FEWEST = 0.9  # of the frames that must still count, as in the paper


class Frames(NamedTuple):
    """Independent samples of a canonical ensemble."""

    graphs: jraph.GraphsTuple  # every array with a leading axis T
    reference: jax.Array  # [T] eV, energies under the parameters that the frames were drawn with
    temperature: float | jax.Array  # K


class Average(NamedTuple):
    """An ensemble average under parameters that may differ from those of the frames."""

    value: Any  # of the observable
    weights: jax.Array  # [T], they sum to 1
    effective: jax.Array  # [] frames that count, exp(-sum w ln w): T where all weights are equal


Observable = Callable[[Any, jraph.GraphsTuple], Any]  # (params, graph of one frame) -> tree of arrays


def make_frames(
    site_energy: SiteEnergy,
    params: Any,
    structures: Sequence[Structure],
    elements: Sequence[int],
    reach: float,
    temperature: float,
    dtype: DTypeLike = np.float64,
    slots: int | None = None,
    **options: Any,
) -> Frames:
    """Frames of structures that were drawn with `params`.

    Args:
      site_energy, params: as for `macejax.potential.predict`.
      structures: samples at `temperature`, all of the same atoms, far enough apart in time to be independent.
      elements: atomic numbers that the model knows, ascending.
      reach: of the edges (Angstrom): the cutoff of the model, or what an observable needs beyond it.
      temperature: K.
      dtype: of the computation.
      slots: neighbour slots of an atom, a multiple of 4, so that frames drawn later have the same shape; as many as needed where not given.
      options: `heads` and `embeddings` of a model that has several heads, or inputs (`build_graph`).

    Raises:
      DataError: a structure is invalid, or has more neighbours than there are slots. ValueError: there is no structure.
    """
    if not structures:
        raise ValueError("an average needs at least one frame.")
    graphs = [build_graph(structure, elements, reach, **options) for structure in structures]
    capacity = capacity_for([max(graphs, key=lambda graph: graph.max_degree)])
    capacity = capacity._replace(nodes=max(len(graph.species) for graph in graphs), species=len(elements), slots=slots or capacity.slots)
    stacked = jax.tree.map(jnp.asarray, stack([batch([graph], capacity, dtype) for graph in graphs]))
    return Frames(stacked, _energies(site_energy, params, stacked), temperature)


@partial(jax.jit, static_argnums=0)
def _energies(site_energy: SiteEnergy, params: Any, graphs: jraph.GraphsTuple) -> jax.Array:
    """Energies [T] (eV), one frame after the other."""
    return jax.lax.map(lambda graph: energy(site_energy, params, graph)[0], graphs)


def reweight(site_energy: SiteEnergy, params: Any, frames: Frames, observable: Observable) -> Average:
    """The average of `observable(params, graph)` over the ensemble of `params`; differentiable, in the memory of one frame.

    Outside of jit, give `effective` to `refuse_few`: an average over a handful of frames means nothing.

    Args:
      site_energy, params: as for `macejax.potential.predict`.
      frames: samples, from `make_frames`.
      observable: function of the parameters and of one frame.
    """

    @jax.checkpoint
    def of_frame(graph: jraph.GraphsTuple) -> tuple[jax.Array, Any]:
        return energy(site_energy, params, graph)[0], observable(params, graph)

    energies, values = jax.lax.map(of_frame, frames.graphs)
    exponent = -(energies - frames.reference) / (BOLTZMANN * frames.temperature)
    logarithms = jax.nn.log_softmax(exponent)
    weights = jnp.exp(logarithms)
    effective = jnp.exp(-jnp.sum(weights * jnp.where(weights > 0, logarithms, 0)))  # a weight that underflowed counts for nothing
    value = jax.tree.map(lambda x: jnp.tensordot(weights, x, 1, precision=jax.lax.Precision.HIGHEST), values)
    return Average(value, weights, effective)


def refuse_few(effective: jax.Array, number: int, fewest: float = FEWEST) -> None:
    """Raise DerivativeError where fewer than `fewest` of `number` frames count. Call it outside of jit."""
    if not float(effective) >= fewest * number:
        raise DerivativeError(
            f"of {number} frames only {float(effective):.1f} count under these parameters, fewer than {fewest:.0%}: draw new frames with "
            f"them, or take a shorter step."
        )


def value_and_gradient(
    loss: Callable[[Any], jax.Array], site_energy: SiteEnergy, observable: Observable, *, fewest: float = FEWEST
) -> Callable[[Any, Frames], tuple[jax.Array, Any, Average]]:
    """A compiled function `(params, frames) -> (loss, its gradient, the average)` that refuses averages over too few frames.

    Args:
      loss: of the averaged observable, a scalar.
      site_energy: as for `macejax.potential.predict`.
      observable: function of the parameters and of one frame.
      fewest: part of the frames that must still count.
    """

    @jax.jit
    def compute(params: Any, frames: Frames) -> tuple[tuple[jax.Array, Average], Any]:
        def total(params: Any) -> tuple[jax.Array, Average]:
            average = reweight(site_energy, params, frames, observable)
            return loss(average.value), average

        return jax.value_and_grad(total, has_aux=True)(params)

    def checked(params: Any, frames: Frames) -> tuple[jax.Array, Any, Average]:
        (value, average), gradient = compute(params, frames)
        refuse_few(average.effective, len(frames.reference), fewest)
        return value, gradient, average

    return checked
