"""Thermal conductivity after Green and Kubo: heat fluxes along a trajectory, and the integral of their autocorrelation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from ase import Atoms, units

from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.graph import build_graph
from macejax.data.unfold import unfold
from macejax.model.model import Model, build
from macejax.potential import SiteEnergy
from macejax.potential.heat_flux import heat_flux
from macejax.simulate.inputs import structure_of
from macejax.simulate.many.systems import lanes_of
from macejax.simulate.verlet import choose

WATT = 1.602176634e6  # eV/(fs Angstrom K) in W/(m K)


class Fluxes(NamedTuple):
    """Heat fluxes of the frames of a trajectory."""

    potential: np.ndarray  # [T, 3] eV Angstrom/fs
    convective: np.ndarray  # [T, 3] eV Angstrom/fs
    num_compilations: int


def heat_fluxes(
    model: Model,
    frames: Sequence[Atoms],
    *,
    dtype: Literal["float32", "float64"] = "float64",
    site_energy: SiteEnergy | None = None,
    layers: int | None = None,
    head: str | None = None,
) -> Fluxes:
    """Heat flux of every frame (`macejax.potential.heat_flux`).

    Args:
      model: whose site energies carry the heat.
      frames: with momenta, periodic or not. The cost of each is that of the atoms within all layers' cutoffs of the cell.
      dtype: of the computation.
      site_energy: takes the place of the model's own function.
      head: which head to use, of a model with several.
      layers: how many cutoffs far an atom's energy reaches; by default the layers of the model.
    """
    (model,), _ = lanes_of(model, 1, head)
    config = model.config
    function = build(config).apply if site_energy is None else site_energy
    reach = config.cutoff * (config.num_interactions if layers is None else layers)
    compilations, capacities, found = 0, list[Capacity](), []

    def evaluate(*arrays: Any) -> Any:
        nonlocal compilations
        compilations += 1
        return heat_flux(function, *arrays)

    compiled = jax.jit(evaluate)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), model.params)
        for atoms in frames:
            unfolded = unfold(structure_of(atoms, config), reach)
            graph = build_graph(unfolded.structure, config.elements, config.cutoff, embeddings=config.joint_embedding)
            capacity = choose(capacities, capacity_for([graph], 1.1))
            if capacity not in capacities:
                capacities.append(capacity)
            velocities, masses = np.zeros((capacity.nodes, 3), dtype), np.ones(capacity.nodes, dtype)
            velocities[: len(unfolded.origin)] = atoms.get_velocities()[unfolded.origin] * units.fs
            masses[: len(unfolded.origin)] = atoms.get_masses()[unfolded.origin]
            inside = np.arange(capacity.nodes) < unfolded.num_original
            found.append(jax.device_get(compiled(params, batch([graph], capacity, dtype), velocities, masses, inside)))
    return Fluxes(np.array([flux.potential for flux in found]), np.array([flux.convective for flux in found]), compilations)


def green_kubo(flux: np.ndarray, interval: float, volume: float, temperature: float, longest: float | None = None) -> np.ndarray:
    """Conductivity as a function of the time up to which the autocorrelation is integrated, [n] W/(m K): look for the plateau.

    kappa(t) = 1 / (3 V kB T^2) times the integral from 0 to t of <J(0) . J(s)>, by the trapezoidal rule; the mean runs over all starts.

    Args:
      flux: [T, 3] eV Angstrom/fs, of equilibrium. Its mean is not taken off.
      interval: fs, from frame to frame.
      volume: Angstrom^3.
      temperature: K.
      longest: fs; by default half of the trajectory.

    Raises:
      ValueError: fewer than two frames, or numbers that are not above 0.
    """
    flux = np.asarray(flux, np.float64)
    if len(flux) < 2 or not (interval > 0 and volume > 0 and temperature > 0):
        raise ValueError("green_kubo needs two frames or more, and an interval, a volume and a temperature above 0.")
    count = len(flux)
    lags = min(count // 2 if longest is None else int(longest / interval), count - 1) + 1
    power = np.abs(np.fft.rfft(flux, 2 * count, axis=0)) ** 2
    correlation = np.fft.irfft(power, axis=0)[:lags].sum(axis=1) / (count - np.arange(lags))
    integral = np.concatenate([[0.0], np.cumsum((correlation[1:] + correlation[:-1]) / 2 * interval)])
    return WATT * integral / (3 * volume * units.kB * temperature**2)
