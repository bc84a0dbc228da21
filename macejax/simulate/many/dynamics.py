"""Molecular dynamics as rules: NVE, Langevin NVT, and NPT with stochastic cell rescaling. Every system has its own temperature, pressure,
timestep and random numbers.

Sub-steps of a step of length h, with f = force, m = mass, x and v as rows:

  B  v <- v + (h / 2) f / m
  C  x <- x exp(e), cell <- cell exp(e), v <- v exp(-e), where e = (h c / (3 tau)) (P - P0) + sqrt(2 kT c h / (3 V tau)) W
  A  x <- x + (h / 2) v
  O  v <- exp(-h / tau_T) v + sqrt((1 - exp(-2 h / tau_T)) kT / m) W

NVE is B A A B (velocity Verlet), NVT B A O A B (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102, 2013), NPT B C A O A B. C is the
stochastic cell rescaling of Bernetti and Bussi (J. Chem. Phys. 153, 114107, 2020) and, for the whole cell, of Del Tatto et al. (Appl. Sci.
12, 1139, 2022), with P = (sum m v v - dE/d(strain)) / V, c the compressibility and W normal random numbers. For the volume alone, P is the
mean of its diagonal and W is one number over sqrt(3); for the cell W is a symmetric matrix, whose off-diagonal elements have half the
variance, so that the cell is strained and never rotated. The term kT / V of the paper's equation for the cell is absent in the exponent:
it is what Ito's rule adds when the exponential is expanded. C stands where energy, stress and velocity of one time are at hand, so that a
step needs one evaluation of the model.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import sum_per_graph
from macejax.simulate.many.fields import HOT, RUNNING, Fields, choose, of_atoms
from macejax.simulate.many.matrices import exponential, volumes
from macejax.simulate.many.program import Rule

Ensemble = Literal["nve", "nvt", "npt"]
ATOMS, CELL = range(2)  # streams of random numbers


def rule(ensemble: Ensemble, free_shape: bool = False) -> Rule:
    """One step of molecular dynamics.

    `nodes`: velocities [n, 3] (ASE's unit, Angstrom sqrt(amu / eV)), masses [n] (amu), order [n] (number of the atom in its system).
    `globals`: timestep and relaxation_time (ASE's unit of time), kT and hottest (eV), freedom (degrees of freedom), seed; for npt
    pressure (eV/Angstrom^3), barostat_time and compressibility (Angstrom^3/eV).
    """

    def move(state: Fields, graph: jraph.GraphsTuple) -> Fields:
        state = _kick(state, graph)
        if ensemble == "npt":
            state = _rescale(state, graph, free_shape)
        state = _drift(state, graph)
        if ensemble != "nve":
            state = _thermostat(state, graph)
        return _drift(state, graph)

    def finish(state: Fields, graph: jraph.GraphsTuple) -> Fields:
        return choose(state.globals["new"], state, _kick(state, graph), graph)

    def verdict(state: Fields, graph: jraph.GraphsTuple) -> jax.Array:
        temperature = 2 * kinetic_energy(state, graph) / state.globals["freedom"]
        return jnp.where(temperature > state.globals["hottest"], HOT, RUNNING)

    return Rule(move, finish, verdict)


def kinetic_energy(state: Fields, graph: jraph.GraphsTuple) -> jax.Array:
    """[G] eV."""
    return sum_per_graph(state.nodes["masses"] * jnp.sum(state.nodes["velocities"] ** 2, axis=1), graph) / 2


def _kick(state: Fields, graph: jraph.GraphsTuple) -> Fields:
    """B."""
    masses = jnp.where(graph.nodes["mask"], state.nodes["masses"], 1)[:, None]
    change = of_atoms(state.globals["timestep"], graph)[:, None] / 2 * state.nodes["forces"] / masses
    return state.update({"velocities": state.nodes["velocities"] + jnp.where(state.nodes["free"], change, 0)})


def _drift(state: Fields, graph: jraph.GraphsTuple) -> Fields:
    """A."""
    change = of_atoms(state.globals["timestep"], graph)[:, None] / 2 * state.nodes["velocities"]
    return state.update({"positions": state.nodes["positions"] + change})


def _thermostat(state: Fields, graph: jraph.GraphsTuple) -> Fields:
    """O."""
    kept = jnp.exp(-state.globals["timestep"] / state.globals["relaxation_time"])
    masses = jnp.where(graph.nodes["mask"], state.nodes["masses"], 1)
    width = jnp.sqrt(of_atoms((1 - kept**2) * state.globals["kT"], graph) / masses)
    keys = jax.vmap(_key, in_axes=(0, 0, None))(state.globals["seed"], state.globals["step"], ATOMS)
    noise = jax.vmap(lambda key, order: jax.random.normal(jax.random.fold_in(key, order), (3,), width.dtype))(
        of_atoms(keys, graph), state.nodes["order"]
    )
    velocities = of_atoms(kept, graph)[:, None] * state.nodes["velocities"] + width[:, None] * noise
    return state.update({"velocities": jnp.where(state.nodes["free"], velocities, 0)})


def _rescale(state: Fields, graph: jraph.GraphsTuple, free_shape: bool) -> Fields:
    """C."""
    of_system, velocities = state.globals, state.nodes["velocities"]
    volume = volumes(of_system["cell"])
    flow = sum_per_graph(state.nodes["masses"][:, None, None] * velocities[:, :, None] * velocities[:, None, :], graph)
    one = jnp.eye(3)
    excess = (flow - of_system["strain_derivative"]) / volume[:, None, None] - of_system["pressure"][:, None, None] * one
    rate = of_system["timestep"] * of_system["compressibility"] / (3 * of_system["barostat_time"])
    width = jnp.sqrt(2 * of_system["kT"] * rate / volume)[:, None, None]
    keys = jax.vmap(_key, in_axes=(0, 0, None))(of_system["seed"], of_system["step"], CELL)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3, 3), volume.dtype))(keys)
    if free_shape:
        # (W + W^T) / 2: variance 1 on the diagonal, 1/2 beside it.
        strain = rate[:, None, None] * excess + width * (noise + jnp.swapaxes(noise, 1, 2)) / 2
    else:
        mean = jnp.trace(excess, axis1=1, axis2=2)[:, None, None] / 3
        strain = (rate[:, None, None] * mean + width * noise[:, :1, :1] / jnp.sqrt(3)) * one
    stretch, shrink = (exponential(sign * strain) for sign in (1, -1))
    return state.update(
        {
            "positions": jnp.einsum("na,nab->nb", state.nodes["positions"], of_atoms(stretch, graph)),
            "velocities": jnp.einsum("na,nab->nb", velocities, of_atoms(shrink, graph)),
        },
        cell=of_system["cell"] @ stretch,
    )


def _key(seed: jax.Array, step: jax.Array, stream: int) -> jax.Array:
    """Of a system, a step and a use: no other system, chunk or list changes it."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)
