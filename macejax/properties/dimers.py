"""Curves of two atoms of every pair of elements: where a model that was never shown close atoms goes wrong, it shows here first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jraph
import numpy as np
from ase.data import chemical_symbols

from macejax.config import ConfigError
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graph
from macejax.data.structure import DataError, Structure
from macejax.model.heads import select_head
from macejax.model.model import Model, build
from macejax.potential import Prediction, SiteEnergy, predict

CLOSE = 0.5  # Angstrom; nearer than this, nuclei repel each other whatever the elements
FEEBLE = 0.01  # eV/Angstrom; a force below it has no direction
NEAREST, STEP = 0.1, 0.05  # Angstrom, of the default distances


class DimerCurve(NamedTuple):
    """Two atoms of the elements `pair` at R distances, nearest first."""

    pair: tuple[str, str]
    distances: np.ndarray  # [R] Angstrom
    energies: np.ndarray  # [R] eV, less that of the two atoms out of each other's reach
    forces: np.ndarray  # [R] eV/Angstrom, positive where the atoms push each other away

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        return bool(np.isfinite(self.energies).all() and np.isfinite(self.forces).all())

    @property
    def repulsive(self) -> bool:
        """Whether the atoms push each other away at every distance below `CLOSE`."""
        return bool((self.forces[self.distances < CLOSE] > 0).all())

    @property
    def force_flips(self) -> int:
        """How often the force changes its sign, feeble ones left out: once for a bond, never for two atoms that only repel."""
        signs = np.sign(self.forces[np.abs(self.forces) >= FEEBLE])
        return int(np.sum(signs[1:] != signs[:-1]))

    @property
    def tortuosity(self) -> float:
        """Way that the energy goes up and down over what it must go, by its ends and its lowest point: 1 for a curve with one minimum.

        As in MLIP Arena (Chiang et al., arXiv:2509.20630). NaN for a flat curve.
        """
        needed = self.energies[0] + self.energies[-1] - 2 * self.energies.min()
        return float(np.abs(np.diff(self.energies)).sum() / needed) if needed > 0 else np.nan


def dimer_curves(
    model: Model,
    distances: Sequence[float] | np.ndarray | None = None,
    *,
    elements: Sequence[int] | None = None,
    dtype: Literal["float32", "float64"] = "float64",
    head: str | None = None,
    site_energy: SiteEnergy | None = None,
) -> list[DimerCurve]:
    """The curve of every pair of elements, like ones included.

    Args:
      model: potential.
      distances: Angstrom, ascending; by default every 0.05 from 0.1 to the cutoff.
      elements: atomic numbers; all that the model knows where not given.
      dtype: of the computation.
      head: which head to use, of a model with several.
      site_energy: takes the place of the model's own function `(params, vectors [N, M, 3], graph) -> node energies [N]`.

    Raises:
      ConfigError: distances that are not ascending and above 0; a model without energies, or that reads more than atoms and cell.
      DataError: an element that the model does not know. ValueError: a head that it does not have.
    """
    if head is not None or len(model.config.heads) > 1:
        model = select_head(model, head)
    config = model.config
    if not config.has_energies or config.joint_embedding:
        raise ConfigError(f"curves of dimers are of energies of atoms alone; this {config.model} has none, or reads other inputs too.")
    known = list(config.elements)
    if unknown := set(elements or known) - set(known):
        raise DataError(f"the model does not know the elements {', '.join(chemical_symbols[z] for z in sorted(unknown))}.")
    places = [known.index(z) for z in sorted(set(elements or known))]
    r = np.arange(NEAREST, config.cutoff, STEP) if distances is None else np.asarray(distances, np.float64)
    if r.ndim != 1 or len(r) < 2 or not (np.isfinite(r).all() and r[0] > 0 and (np.diff(r) > 0).all()):
        raise ConfigError("distances must be two or more, above 0 and ascending.")
    function = build(config).apply if site_energy is None else site_energy
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), model.params)
        graph = _dimers(r, config.elements, config.cutoff, dtype)

        of_pair = jax.jit(lambda params, graph, pair: predict(function, params, _of_elements(graph, pair)))
        pairs = itertools.combinations_with_replacement(places, 2)
        found = [(pair, jax.device_get(of_pair(params, graph, np.array(pair, np.int32)))) for pair in pairs]
    return [_curve((known[i], known[j]), r, prediction) for (i, j), prediction in found]


def _dimers(r: np.ndarray, elements: Sequence[int], cutoff: float, dtype: str) -> jraph.GraphsTuple:
    """Two atoms at every distance, and as the last structure out of each other's reach."""
    numbers = np.array(elements)[:1].repeat(2)
    places = [np.array([[0.0, 0, 0], [x, 0, 0]]) for x in (*r, cutoff + 1)]
    graphs = [build_graph(Structure(numbers, place), elements, cutoff) for place in places]
    return batch(graphs, capacity_for(graphs)._replace(species=2), np.dtype(dtype))


def _of_elements(graph: jraph.GraphsTuple, pair: jax.Array) -> jraph.GraphsTuple:
    """The dimers with a first and a second atom of these elements [2], places among those of the model."""
    second = np.arange(len(graph.nodes["mask"]), dtype=np.int32) % 2
    species = jax.numpy.where(graph.nodes["mask"], pair[second], 0)
    slot = jax.numpy.where(pair[0] == pair[1], 0, second)  # the table repeats its first entry where there is one element
    return graph._replace(
        nodes={**graph.nodes, "species": species, "slot": slot.astype(np.int32)}, globals={**graph.globals, "species_table": pair}
    )


def _curve(numbers: tuple[int, int], r: np.ndarray, found: Prediction) -> DimerCurve:
    energies = np.asarray(found.energy, np.float64)[: len(r) + 1]
    pushes = np.asarray(found.forces, np.float64)[1 : 2 * len(r) : 2, 0]
    return DimerCurve((chemical_symbols[numbers[0]], chemical_symbols[numbers[1]]), r, energies[:-1] - energies[-1], pushes)
