"""A list that reaches beyond the cutoff, pruned, is the list of the cutoff."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from macejax import batch, build_graph
from macejax.data.batch import capacity_for, round_slots
from macejax.data.read import from_atoms
from macejax.model.geometry import edge_vectors, without_low
from macejax.simulate import Calculator, run_many, run_on_device
from macejax.simulate.prune import prune
from tests.simulate.toy import CUTOFF, ELEMENTS, morse, toy_model

pruned = jax.jit(prune, static_argnums=(1, 2))


def crystal(seed: int = 0):
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.15, seed=seed)
    return atoms


def batch_of(systems, reach: float, dtype=np.float64, slots: int = 0):
    graphs = [build_graph(from_atoms(atoms), ELEMENTS, reach) for atoms in systems]
    need = capacity_for(graphs)
    return batch(graphs, need._replace(nodes=need.nodes + 3, slots=slots or need.slots, graphs=need.graphs + 1), dtype)


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.x32)])
def test_edges_are_those_of_a_list_of_the_cutoff(dtype):
    """Slot by slot, of a crystal smaller than the cutoff, a molecule and a lone atom, with padding."""
    systems = [crystal(), molecule("H2O"), bulk("Cu")[:1].copy()]
    systems[2].pbc = False
    exact = batch_of(systems, CUTOFF, dtype)
    slots = exact.edges["mask"].size // len(exact.nodes["species"])
    for reach in (CUTOFF + 0.3, CUTOFF + 2.0):
        far = batch_of(systems, reach, dtype)
        assert far.edges["mask"].size > exact.edges["mask"].size
        found, degrees = pruned(far, CUTOFF, slots)
        np.testing.assert_array_equal(degrees, exact.edges["mask"].reshape(-1, slots).sum(axis=1))
        for name, ours, theirs in (
            ("senders", found.senders, exact.senders),
            ("receivers", found.receivers, exact.receivers),
            ("n_edge", found.n_edge, exact.n_edge),
            *((name, found.edges[name], exact.edges[name]) for name in ("shift", "mask", "reverse")),
        ):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
            assert ours.dtype == theirs.dtype, name
        assert found.edges.keys() == exact.edges.keys()


def test_too_few_slots_are_told_and_all_indices_stay_within():
    far = batch_of([crystal()], CUTOFF + 1.0)
    found, degrees = pruned(far, CUTOFF, 8)
    assert int(degrees.max()) > 8
    number = 8 * len(far.nodes["species"])
    assert 0 <= int(found.edges["reverse"].min()) <= int(found.edges["reverse"].max()) < number


@pytest.mark.parametrize("low", [True, False])
def test_an_edge_and_its_reverse_stay_together(low):
    """In float32 and far away, of cutoffs at which one of them would be left out were they of different length."""
    graph = batch_of([crystal(seed=3)], CUTOFF, np.float32)
    graph.nodes["positions"] += np.float32(1e3 / 3)
    if not low:
        graph = without_low(graph)
    lengths = np.linalg.norm(np.asarray(edge_vectors(graph), np.float64), axis=-1)
    for cutoff in np.unique(lengths)[5::20]:
        found, _ = pruned(graph, float(cutoff), 64)
        reverse = np.asarray(found.edges["reverse"])
        np.testing.assert_array_equal(reverse[reverse], np.arange(len(reverse)))
        np.testing.assert_array_equal(np.asarray(found.edges["mask"])[reverse], found.edges["mask"])
        np.testing.assert_array_equal(np.asarray(found.senders)[reverse], found.receivers)


def test_what_is_not_a_number_is_not_left_out():
    far = batch_of([crystal()], CUTOFF + 1.0)
    far.nodes["positions"][0] = np.nan
    found, _ = pruned(far, CUTOFF, 64)
    assert np.isnan(np.asarray(edge_vectors(found))[0]).any()


def test_a_calculator_computes_with_the_edges_within_the_cutoff():
    """In as many slots as they need, which grow with them; what was compiled for few atoms serves again."""
    seen = []

    def counting(params, vectors, graph):
        seen.append(vectors.shape[1])
        return morse(params, vectors, graph)

    atoms = crystal()
    atoms.calc = Calculator(toy_model(), skin=1.5, site_energy=counting)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    exact, far = (batch_of([atoms], reach).edges["mask"].size // (len(atoms) + 3) for reach in (CUTOFF, CUTOFF + 1.5))
    assert seen and all(exact <= slots <= round_slots(1.1 * exact + 4) < far for slots in seen)
    fresh = atoms.copy()
    fresh.calc = Calculator(toy_model(), skin=0.0, site_energy=morse)
    np.testing.assert_allclose(energy, fresh.get_potential_energy(), atol=1e-12, rtol=0)
    np.testing.assert_allclose(forces, fresh.get_forces(), atol=1e-12, rtol=0)
    before = atoms.calc.num_compilations
    atoms.set_cell(atoms.cell * 0.93, scale_atoms=True)  # within the skin, and more neighbours than there were slots
    fresh.set_cell(atoms.cell, scale_atoms=True)
    np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-12, rtol=0)
    assert atoms.calc.num_rebuilds == 1 and atoms.calc.num_compilations == before + 1
    assert seen[-1] > seen[0]


@pytest.mark.parametrize("run", [run_on_device, run_many])
def test_engines_compute_with_the_edges_within_the_cutoff(run):
    """Of a crystal, in no more slots than these need; of a molecule, in as many as it has other atoms."""
    seen = []

    def counting(params, vectors, graph):
        seen.append(vectors.shape[1])
        return morse(params, vectors, graph)

    for atoms, most in ((crystal(), 60), (bulk("Cu", cubic=True) * 2, 60), (Atoms("Cu8", crystal().positions), 8)):
        exact, far = (batch_of([atoms], reach).edges["mask"].size // (len(atoms) + 3) for reach in (CUTOFF, CUTOFF + 1.5))
        assert exact < far or most == 8
        run(toy_model(), atoms if run is run_on_device else [atoms], 2, site_energy=counting, skin=1.5)
        assert exact <= max(seen) <= min(round_slots(1.1 * exact), most)
        seen.clear()
