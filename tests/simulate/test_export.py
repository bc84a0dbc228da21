"""A program that `jax.export` has written, read again, is the model: on one frame, and along a trajectory."""

from __future__ import annotations

import jax
import numpy as np
from ase import units
from jax import export

from macejax.config import ModelConfig
from macejax.data.batch import batch, capacity_for
from macejax.data.graph import build_graph
from macejax.data.read import from_atoms
from macejax.model.model import build, init_model
from macejax.potential.predict import predict
from macejax.simulate.calculator import Calculator
from tests.structures import atoms

SAME = 1e-10  # eV, eV/Angstrom, Angstrom
STEP = 1.0 * units.fs


def test_an_exported_program_is_the_model(tmp_path) -> None:
    config = ModelConfig(elements=(14,), e0s=(-1.0,), hidden_irreps="4x0e + 4x1o", l_max=2, correlation=2, cutoff=3.5, scale=0.1)
    model, frame = init_model(config, jax.random.key(0), np.float64), atoms("silicon8")
    frame.rattle(0.05, seed=0)
    capacity = capacity_for([build_graph(from_atoms(frame), config.elements, config.cutoff)], growth=1.5)

    def arguments():
        graph = build_graph(from_atoms(frame), config.elements, config.cutoff)
        return model.params, batch([graph], capacity, np.float64)

    tree = jax.tree.structure(arguments())

    @jax.jit
    def program(*arrays):
        found = predict(build(config).apply, *jax.tree.unflatten(tree, arrays))
        return found.energy[0], found.forces[: len(frame)], found.stress[0]

    file = tmp_path / "silicon.jax"
    file.write_bytes(export.export(program)(*jax.tree.leaves(arguments())).serialize())
    call = export.deserialize(file.read_bytes()).call

    other = frame.copy()
    other.calc = Calculator(model, skin=0.0)
    # Each atom's E0 is -1 eV, which the program leaves out.
    energy, forces, stress = call(*jax.tree.leaves(arguments()))
    np.testing.assert_allclose(energy - len(frame), other.get_potential_energy(), atol=SAME, rtol=0)
    np.testing.assert_allclose(forces, other.get_forces(), atol=SAME, rtol=0)
    np.testing.assert_allclose(stress, other.get_stress(voigt=False), atol=SAME, rtol=0)
    assert np.abs(forces).max() > 0.01

    masses, start = frame.get_masses()[:, None], frame.positions.copy()
    for answer, image in ((lambda: call(*jax.tree.leaves(arguments()))[1], frame), (other.get_forces, other)):
        velocity = np.zeros_like(start)
        for _ in range(4):
            velocity = velocity + STEP / 2 * np.asarray(answer()) / masses
            image.positions += STEP * velocity
            velocity = velocity + STEP / 2 * np.asarray(answer()) / masses
    np.testing.assert_allclose(frame.positions, other.positions, atol=SAME, rtol=0)
    assert np.abs(frame.positions - start).max() > 1e-4
