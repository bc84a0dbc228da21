"""Engines of macejax, and ASE with mace-torch, as workers of the bench: the command says which."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

import macejax
from macejax.simulate import Calculator, Ensemble, run_md, run_on_device
from macejax.simulate.list_shape import allocate, shape_for
from macejax.simulate.system import evaluate, species_of

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from worker import Work, serve  # noqa: E402

Run = Callable[[int], Any]


def bare(model: macejax.Model, atoms: Atoms, command: dict[str, Any]) -> Run:
    """Energy, forces and stress alone, as often, in one compiled loop with one list; positions move by next to nothing between calls."""
    with jax.enable_x64(True):
        a, b, c = atoms.pbc.tolist()
        cell, start = jnp.asarray(atoms.cell.array), jnp.asarray(atoms.positions)
        rows = allocate(shape_for(atoms.positions, atoms.cell.array, (a, b, c), model.config.cutoff, command["skin"]), start, cell)
        function = partial(evaluate, macejax.build(model.config).apply)
        params = jax.tree.map(lambda x: jnp.asarray(x, command["dtype"]), model.params)
        species = species_of(atoms.numbers, model.config.elements)

        @jax.jit
        def loop(params, species, positions, cell, rows, steps):
            move = lambda _, x: x + 1e-12 * function(params, species, x, cell, rows)[0].forces  # noqa: E731
            return jax.lax.fori_loop(0, steps, move, positions)

    def run(steps: int) -> None:
        with jax.enable_x64(True):
            loop(params, species, start, cell, rows, steps).block_until_ready()

    return run


def on_device(model: macejax.Model, atoms: Atoms, command: dict[str, Any], site_energy: Any = None) -> Run:
    ensemble = Ensemble("nve", command["timestep"])
    options = {"dtype": command["dtype"], "skin": command["skin"], "every": 10**9, "site_energy": site_energy}
    return lambda steps: run_on_device(model, atoms.copy(), steps, ensemble, **options)


def driver_alone(model: macejax.Model, atoms: Atoms, command: dict[str, Any]) -> Run:
    """`on_device` with a potential that costs next to nothing: list, integrator and watch are what is left."""

    def free(params: dict, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        square = jnp.where(graph.edges["mask"].reshape(vectors.shape[:2]), jnp.sum(vectors**2, axis=-1), 0)
        return params["k"] * jnp.sum(square, axis=1)

    return on_device(model._replace(params={"k": np.float32(1e-9)}), atoms, command, free)


def with_ase(model: macejax.Model, atoms: Atoms, command: dict[str, Any]) -> Run:
    calculator = Calculator(model, dtype=command["dtype"], skin=command["skin"])

    def run(steps: int) -> None:
        copy = atoms.copy()
        copy.calc = calculator
        run_md(copy, steps, timestep=command["timestep"], every=10**9)

    return run


def with_torch(model: macejax.Model, atoms: Atoms, command: dict[str, Any]) -> Run:
    """ASE and mace-torch's calculator, with the same weights."""
    import torch
    from mace.calculators import MACECalculator

    from macejax.checkpoint.torch_export import to_torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    calculator = MACECalculator(models=[to_torch(model)], device=device, default_dtype=command["dtype"])

    def run(steps: int) -> None:
        copy = atoms.copy()
        copy.calc = calculator
        VelocityVerlet(copy, command["timestep"] * units.fs).run(steps)

    return run


ENGINES = {
    "bare forces": bare,
    "device": on_device,
    "device, no model": driver_alone,
    "ASE + macejax": with_ase,
    "ASE + mace-torch": with_torch,
}


def prepare(command: dict[str, Any]) -> Work:
    """The engine, compiled by a first step."""
    atoms = ase.io.read(command["structures"])
    run = ENGINES[command["engine"]](macejax.load(command["model"]), atoms, command)
    begun = time.perf_counter()
    run(1)
    return Work(run, np.zeros(1), np.zeros((len(atoms), 3)), 0, time.perf_counter() - begun)


if __name__ == "__main__":
    serve(prepare)
