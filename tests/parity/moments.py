"""Dipoles and polarizabilities: what mace-torch says of a structure, and what macejax says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ase
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.data.batch import batch
from macejax.data.graph import build_graph
from macejax.data.read import from_atoms
from macejax.model.model import Model, build
from macejax.potential import MomentDerivatives, Moments, moment_derivatives, predict, predict_moments
from tests.parity import ours
from tests.parity.compare import DERIVATIVES, ENERGY, assert_close

BASE: dict[str, Any] = {"hidden": "4x0e + 4x1o + 4x2e", "correlation": 2, "l_max": 2, "radial_mlp": (8,)}
CASES: dict[str, dict[str, Any]] = {
    "AtomicDipolesMACE": {**BASE, "readout": "5x1o", "seed": 31},
    "EnergyDipolesMACE": {**BASE, "readout": "3x0e + 5x1o", "seed": 32},
    "AtomicDielectricMACE": {**BASE, "readout": "3x0e + 2x1o + 5x2e", "seed": 33},
}
STRUCTURES = ("molecule", "slab")


def random_module(model: str, **options: Any) -> Any:
    """A mace-torch module of a model of dipoles, as `reference.random_module`."""
    from tests.parity import reference

    energies = {} if model == "EnergyDipolesMACE" else {"atomic_energies": None}
    return reference.random_module(model=model, **options, **energies)


def charged(atoms: ase.Atoms) -> ase.Atoms:
    """The structure far from the origin, with charges of atoms, and with a total charge, which is not their sum."""
    atoms.positions += [3.0, -5.0, 8.0]
    atoms.arrays["REF_charges"] = np.random.default_rng(len(atoms)).normal(size=len(atoms))
    atoms.info["total_charge"] = 2.0
    return atoms


def evaluate(module: Any, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """What mace-torch says of one structure in float64: dipole [3], atomic_dipoles [N, 3], dmu_dr [3, N, 3], and where it has them energy,
    forces [N, 3], charges [N], polarizability [3, 3], polarizability_sh [6] and dalpha_dr [9, N, 3].
    """
    import torch

    from tests.parity import reference

    inputs = reference.to_batch(atoms, module)
    inputs["charges"] = torch.tensor(atoms.arrays["REF_charges"])
    inputs["total_charge"] = torch.tensor([atoms.info["total_charge"]], dtype=torch.float64)
    with_energy = type(module).__name__ == "EnergyDipolesMACE"
    out = module(inputs, training=True, compute_force=with_energy)
    parts = {"dmu_dr": out["dipole"]}
    if out.get("polarizability") is not None:
        parts["dalpha_dr"] = out["polarizability"].reshape(1, 9)
    answer = {
        name: np.stack([_gradient(row, inputs["positions"]) for row in value[0]]) for name, value in parts.items()
    }  # its own derivatives need an option of the calculator
    for name in ("dipole", "atomic_dipoles", "energy", "forces", "polarizability", "polarizability_sh", "charges"):
        if out.get(name) is not None:
            value = out[name].detach().numpy()
            answer[name] = value if name in ("atomic_dipoles", "forces", "charges") else value[0]
    return answer


def _gradient(row: Any, positions: Any) -> np.ndarray:
    import torch

    return torch.autograd.grad(row, positions, retain_graph=True)[0].numpy()


def evaluator(model: Model) -> ours.Answer:
    """A function from atoms to the quantities of `evaluate`, compiled once."""
    module, params = build(model.config), jax.tree.map(jnp.asarray, model.params)

    @jax.jit
    def compute(params: Any, graph: jraph.GraphsTuple) -> tuple[Moments, MomentDerivatives, Any]:
        energy = predict(module.apply, params, graph)[:3] if model.config.has_energies else None
        return predict_moments(module.apply, params, graph), moment_derivatives(module.apply, params, graph), energy

    def answer(atoms: ase.Atoms) -> dict[str, np.ndarray]:
        graph = build_graph(from_atoms(atoms), model.config.elements, model.config.cutoff)
        moments, derivatives, energy = jax.device_get(compute(params, batch([graph], ours.CAPACITY, np.float64)))
        num = len(atoms)
        found = {"dipole": moments.dipole[0], "atomic_dipoles": moments.atomic_dipoles[:num], "charges": moments.charges[:num]}
        found["dmu_dr"] = derivatives.dipole[:num].transpose(1, 0, 2)
        assert not moments.dipole[1:].any() and not moments.atomic_dipoles[num:].any() and not derivatives.dipole[num:].any()
        if moments.polarizability is not None:
            found |= {"polarizability": moments.polarizability[0], "polarizability_sh": moments.polarizability_sh[0]}
            found["dalpha_dr"] = derivatives.polarizability[:num].reshape(num, 9, 3).transpose(1, 0, 2)
        if energy is not None:
            found |= {"energy": energy[0][0] + np.asarray(model.config.e0s)[graph.species].sum(), "forces": energy[2][:num]}
        return found

    return answer


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Everything that the reference knows."""
    for name, value in expected.items():
        tolerance = DERIVATIVES if name in ("forces", "dmu_dr", "dalpha_dr") else ENERGY
        assert_close(found[name], value, tolerance, name)
