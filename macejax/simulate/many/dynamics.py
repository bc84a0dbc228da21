"""Molecular dynamics as rules: NVE, Langevin NVT, and NPT with stochastic cell rescaling. Every system has its own temperature, pressure,
timestep and random numbers.

Sub-steps are those of `macejax.simulate.splitting`: B kicks, A drifts, O is the thermostat, C rescales the cell. NVE is B A A B (velocity
Verlet), NVT B A O A B, NPT B C A O A B. C stands where energy, stress and momenta of one time are at hand, so that a step needs one
evaluation of the model.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import sum_per_graph
from macejax.simulate import splitting
from macejax.simulate.many.fields import HOT, JUMPED, RUNNING, Fields, choose, of_atoms
from macejax.simulate.many.program import Rule
from macejax.simulate.matrices import exponential, volumes
from macejax.simulate.md import JUMP

Ensemble = Literal["nve", "nvt", "npt"]
ATOMS, CELL = range(2)  # streams of random numbers


def rule(ensemble: Ensemble, free_shape: bool = False) -> Rule:
    """One step of molecular dynamics.

    `nodes`: momenta [n, 3] (ASE's unit, sqrt(amu eV)), masses [n] (amu), order [n] (number of the atom in its system).
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

    def verdict(before: Fields, state: Fields, graph: jraph.GraphsTuple) -> jax.Array:
        most = state.globals["freedom"] / 2 * state.globals["hottest"]
        jumped = jnp.abs(state.globals["energy"] - before.globals["energy"]) > JUMP * most  # not where it is new: NaN
        return jnp.where(kinetic_energy(state, graph) > most, HOT, jnp.where(jumped, JUMPED, RUNNING))

    return Rule(move, finish, verdict)


def kinetic_energy(state: Fields, graph: jraph.GraphsTuple) -> jax.Array:
    """[G] eV."""
    return sum_per_graph(jnp.sum(state.nodes["momenta"] ** 2, axis=1) / _masses(state, graph)[:, 0], graph) / 2


def _kick(state: Fields, graph: jraph.GraphsTuple) -> Fields:
    """B."""
    after = splitting.kick(state.nodes["momenta"], state.nodes["forces"], of_atoms(state.globals["timestep"], graph)[:, None])
    return state.update({"momenta": jnp.where(state.nodes["free"], after, 0)})


def _drift(state: Fields, graph: jraph.GraphsTuple) -> Fields:
    """A."""
    timestep = of_atoms(state.globals["timestep"], graph)[:, None]
    return state.update({"positions": splitting.drift(state.nodes["positions"], state.nodes["momenta"], _masses(state, graph), timestep)})


def _thermostat(state: Fields, graph: jraph.GraphsTuple) -> Fields:
    """O."""
    keys = jax.vmap(_key, in_axes=(0, 0, None))(state.globals["seed"], state.globals["step"], ATOMS)
    momenta = state.nodes["momenta"]
    noise = jax.vmap(lambda key, order: jax.random.normal(jax.random.fold_in(key, order), (3,), momenta.dtype))(
        of_atoms(keys, graph), state.nodes["order"]
    )
    kT, timestep, time = (of_atoms(state.globals[name], graph)[:, None] for name in ("kT", "timestep", "relaxation_time"))
    after = splitting.ornstein_uhlenbeck(momenta, _masses(state, graph), kT, timestep, time, noise)
    return state.update({"momenta": jnp.where(state.nodes["free"], after, 0)})


def _rescale(state: Fields, graph: jraph.GraphsTuple, free_shape: bool) -> Fields:
    """C."""
    of_system, momenta = state.globals, state.nodes["momenta"]
    volume = volumes(of_system["cell"])
    flow = sum_per_graph(momenta[:, :, None] * momenta[:, None, :] / _masses(state, graph)[:, None], graph)
    excess = (flow - of_system["strain_derivative"]) / volume[:, None, None] - of_system["pressure"][:, None, None] * jnp.eye(3)
    keys = jax.vmap(_key, in_axes=(0, 0, None))(of_system["seed"], of_system["step"], CELL)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3, 3) if free_shape else (), volume.dtype))(keys)
    mobility = of_system["compressibility"] / of_system["barostat_time"]
    strain = splitting.cell_strain(excess, volume, of_system["kT"], mobility, of_system["timestep"], noise, free_shape=free_shape)
    stretch, shrink = exponential(strain), exponential(-strain)
    return state.update(
        {
            "positions": jnp.einsum("na,nab->nb", state.nodes["positions"], of_atoms(stretch, graph)),
            "momenta": jnp.einsum("na,nab->nb", momenta, of_atoms(shrink, graph)),
        },
        cell=of_system["cell"] @ stretch,
    )


def _masses(state: Fields, graph: jraph.GraphsTuple) -> jax.Array:
    """[N, 1], 1 on padding."""
    return jnp.where(graph.nodes["mask"], state.nodes["masses"], 1)[:, None]


def _key(seed: jax.Array, step: jax.Array, stream: int) -> jax.Array:
    """Of a system, a step and a use: no other system, chunk or list changes it."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)
