"""Parts of the batched simulations: matrices, packing, lists that are watched."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.linalg
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet

from macejax.config import ModelConfig
from macejax.config.embedding import EmbeddingConfig
from macejax.data.batch import capacity_for
from macejax.data.read import from_atoms
from macejax.model.model import Model, init_model
from macejax.simulate import Calculator
from macejax.simulate.conductivity import heat_fluxes
from macejax.simulate.many import md
from macejax.simulate.many.fields import RUNNING, choose, max_per_graph, pack, start, unpack
from macejax.simulate.many.lists import find, gather_lists, reach_used
from macejax.simulate.many.program import make_program
from macejax.simulate.matrices import exponential, inverse, volumes

CUTOFF, SKIN = 3.0, 0.6


def test_matrices():
    rng = np.random.default_rng(0)
    m = np.concatenate([rng.normal(size=(5, 3, 3)), 1e-6 * rng.normal(size=(2, 3, 3)), np.zeros((1, 3, 3))])
    np.testing.assert_allclose(exponential(m), scipy.linalg.expm(m), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(exponential(m[5:7]) - np.eye(3), scipy.linalg.expm(m[5:7]) - np.eye(3), atol=3e-16, rtol=0)
    np.testing.assert_array_equal(exponential(m[7]), np.eye(3))
    np.testing.assert_allclose(inverse(m[:5]), np.linalg.inv(m[:5]), rtol=1e-10)
    np.testing.assert_allclose(volumes(m[:5]), abs(np.linalg.det(m[:5])), rtol=1e-12)
    direction = rng.normal(size=(3, 3))
    tangent = jax.jvp(exponential, (m[0],), (direction,))[1]
    np.testing.assert_allclose(tangent, scipy.linalg.expm_frechet(m[0], direction, compute_expm=False), rtol=1e-12)


def systems():
    return [from_atoms(bulk("Cu", cubic=True)), from_atoms(molecule("H2O")), from_atoms(bulk("Cu"))]


def batched():
    listed = [find(structure, (1, 8, 29), CUTOFF, CUTOFF + SKIN) for structure in systems()]
    capacity = capacity_for([each.graph for each in listed], 1.3)
    parts = [
        start(s.positions, s.cell, np.ones((len(s.numbers), 3), bool), s.pbc.all(), 9, 1, {"tag": np.arange(len(s.numbers))}, {})
        for s in systems()
    ]
    return parts, gather_lists(listed, capacity), pack(parts, parts[0], capacity.nodes, capacity.graphs)


def test_packing_is_undone():
    parts, _, state = batched()
    assert (state.globals["status"][:3] == RUNNING).all() and (state.globals["status"][3:] != RUNNING).all()
    for part, back in zip(parts, unpack(state, [4, 3, 1]), strict=True):
        for one, other in zip(part, back, strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_choose_and_max():
    _, lists, state = batched()
    other = state.update({"tag": state.nodes["tag"] + 100}, step=state.globals["step"] + 5)
    picked = choose(np.array([False, True, False, True]), other, state, lists.graph)
    np.testing.assert_array_equal(picked.nodes["tag"][:8], [0, 1, 2, 3, 100, 101, 102, 0])
    np.testing.assert_array_equal(picked.globals["step"], [0, 5, 0, 5])
    values = np.array([1.0, 5, 2, 3, 7, np.nan, 0, 4] + [99.0] * (len(state.nodes["tag"]) - 8))
    np.testing.assert_array_equal(max_per_graph(values, lists.graph), [5, np.nan, 4, 0])


def test_a_list_is_worn_by_motion_against_the_others_and_by_the_cell():
    """`reach_used` passes 1 no later than a pair can be missing, and does not when all move alike."""
    _, lists, state = batched()
    fresh = CUTOFF / (CUTOFF + SKIN)
    np.testing.assert_allclose(reach_used(lists, state, CUTOFF)[:3], fresh)
    positions = state.nodes["positions"].copy()
    positions[:4] += 3.0
    positions[4] += [0, 0, 0.4]
    used = reach_used(lists, state.update({"positions": positions}), CUTOFF)
    np.testing.assert_allclose(used[::2][:2], fresh, rtol=1e-12)
    np.testing.assert_allclose(used[1], (CUTOFF + 2 * 0.4 * 2 / 3) / (CUTOFF + SKIN))  # against the mean of three atoms
    cell, squeezed = state.globals["cell"].copy(), state.nodes["positions"].copy()
    cell[0] *= 0.9
    squeezed[:4] *= 0.9
    used = reach_used(lists, state.update({"positions": squeezed}, cell=cell), CUTOFF)
    assert used[0] >= fresh / 0.9 - 1e-12 and used[0] < fresh * 1.2
    np.testing.assert_allclose(used[1:3], fresh, rtol=1e-12)


@pytest.mark.thorough
def test_heads_and_inputs_of_a_model_are_used():
    """Two heads, and a total charge that the model embeds: numbers are those of the calculator, for several models too."""
    charge = EmbeddingConfig(name="total_charge", type="categorical", emb_dim=3, num_classes=5, offset=2)
    config = ModelConfig(
        elements=(1, 8), heads=("a", "b"), e0s=((-1.0, -2.0), (-3.0, -4.0)), scale=(1.0, 1.0), shift=(0.0, 0.0), cutoff=3.0,
        hidden_irreps="4x0e", l_max=1, correlation=1, radial_mlp=(8,), joint_embedding=(charge,), embedding_readout=True,
    )  # fmt: skip
    models = [init_model(config, jax.random.key(k), np.float64) for k in range(2)]
    neutral, cation = molecule("H2O"), molecule("H2O")
    cation.info["charge"] = 1
    found = md.run_many([models[0], models[0], models[1]], [neutral, cation, cation], 3, timestep=0.5, head="b", batch_atoms=3).runs
    for model, atoms, result in zip((models[0], models[0], models[1]), (neutral, cation, cation), found, strict=True):
        atoms = atoms.copy()
        atoms.calc = Calculator(model, head="b")
        VelocityVerlet(atoms, 0.5 * units.fs).run(3)
        np.testing.assert_allclose(result.atoms.positions, atoms.positions, atol=1e-10, rtol=0)
        assert result.thermo[-1].potential_energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert found[0].thermo[-1].potential_energy != pytest.approx(found[1].thermo[-1].potential_energy, abs=1e-6)
    with pytest.raises(ValueError, match="a, b"):
        md.run_many(models[0], [neutral], 1)
    flux = heat_fluxes(models[0], [found[0].atoms, found[1].atoms], head="b").potential
    assert np.isfinite(flux).all() and np.abs(flux[0] - flux[1]).max() > 0
    dipoles = ModelConfig(model="AtomicDipolesMACE", elements=(1, 8), e0s=(0.0, 0.0), readout_irreps="4x0e+4x1o", hidden_irreps="4x0e+4x1o")
    with pytest.raises(ValueError, match="no energies"):
        md.run_many(Model(dipoles, {}), [neutral], 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_program_is_one_for_cuda_devices_too(monkeypatch, dtype):
    """With the kernels, x64 on, and parameters of two members: what there is to be seen of it without a device."""
    config = ModelConfig(elements=(29,), e0s=(0.0,), cutoff=3.0, hidden_irreps="32x0e", l_max=1, correlation=2, radial_mlp=(8,))
    models = [init_model(config, jax.random.key(k), np.float64) for k in range(2)]
    texts = []

    def lowered(advance, lanes):
        program = make_program(advance, lanes)

        def run(*arrays, **options):
            traced = program.run.trace(*arrays, **options)
            try:
                texts.append(traced.lower(lowering_platforms=("cuda",)).as_text())
            except RuntimeError as error:
                if "No supported GPU devices" in str(error):
                    pytest.skip("this jax lowers kernels for CUDA where there is a device only")
                raise
            raise InterruptedError

        return program._replace(run=run)

    monkeypatch.setattr(md, "make_program", lowered)
    try:
        with pytest.raises(InterruptedError):
            md.run_many(models, [bulk("Cu")] * 2, 5, temperature=300.0, dtype=dtype)
    finally:
        md._program.cache_clear()
    assert "triton" in texts[0] and "stablehlo.while" in texts[0]
