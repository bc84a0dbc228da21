"""Real files of others: read as ASE reads them, every frame a graph, every label where it belongs."""

from __future__ import annotations

from pathlib import Path

import ase.io
import ase.neighborlist
import numpy as np
import pytest

from macejax.data.graph import build_graph, build_graphs
from macejax.data.labels import Keys
from macejax.data.loader import Loader
from macejax.data.pack import pack_all
from macejax.data.read import read
from macejax.data.species import elements_of
from macejax.data.statistics import e0_list, e0s_average, e0s_from_isolated, split_isolated
from macejax.data.structure import DataError

XTB = Keys(energy="energy_xtb", forces="forces_xtb")
DFT = Keys(energy="dft_energy", forces="dft_forces", stress="dft_stress")
FILES = {
    "TiAl.xyz": (Keys(), 329, 0, True),
    "mlearn_Si_test.xyz": (Keys(), 25, 0, True),
    "solvent_xtb_train_200.xyz": (XTB, 200, 3, False),
    "zr_mof_custom_keys.xyz": (DFT, 18, 4, True),
    "rmd17_ethanol_train_01.xyz": (Keys(), 1000, 0, False),
}


@pytest.mark.parametrize("name", FILES)
def test_labels_are_those_that_ase_reads(name: str, real_data: Path) -> None:
    keys, num_training, num_isolated, has_stress = FILES[name]
    structures = read(real_data / "data" / name, keys)
    isolated, training = split_isolated(structures)
    assert (len(training), len(isolated)) == (num_training, num_isolated)
    images = ase.io.read(real_data / "data" / name, ":")
    assert len(images) == len(structures)
    for structure, image in zip(structures, images, strict=True):
        results = {} if image.calc is None else image.calc.results
        np.testing.assert_array_equal(structure.numbers, image.numbers)
        np.testing.assert_array_equal(structure.positions, image.positions)
        np.testing.assert_array_equal(structure.cell, np.asarray(image.cell))
        np.testing.assert_array_equal(structure.pbc, image.pbc)
        assert structure.energy == results.get("energy", image.info.get(keys.energy))
        np.testing.assert_array_equal(structure.forces, results.get("forces", image.arrays.get(keys.forces)))
    for structure in training:
        assert (structure.stress is not None) == has_stress


def test_wrong_key_lists_those_that_are_there(real_data: Path) -> None:
    with pytest.raises(DataError, match="'REF_energy'.*there are: .*energy_xtb.*forces_xtb"):
        read(real_data / "data" / "solvent_xtb_train_200.xyz")
    with pytest.raises(DataError, match="'DFT_energy' for energy.*there are: .*dft_energy, dft_forces, dft_stress"):
        read(real_data / "data" / "zr_mof_custom_keys.xyz", DFT._replace(energy="DFT_energy"))


def test_edges_of_tiny_cells_equal_those_of_ase(real_data: Path) -> None:
    structures = read(real_data / "data" / "TiAl.xyz")
    small = sorted(structures, key=lambda structure: len(structure.numbers))[:40]
    assert len(small[0].numbers) == 2
    for structure in small:
        graph = build_graph(structure, elements_of(structures), 5.0)
        lengths = np.linalg.norm(graph.positions[graph.senders] + graph.shift @ graph.cell - graph.positions[graph.receivers], axis=1)
        image = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
        np.testing.assert_allclose(np.sort(lengths), np.sort(ase.neighborlist.neighbor_list("d", image, 5.0)), atol=1e-10)


@pytest.mark.filterwarnings("ignore:E0s by least squares")
@pytest.mark.parametrize("name", ["TiAl.xyz", "solvent_xtb_train_200.xyz"])
def test_whole_way_to_batches(name: str, real_data: Path) -> None:
    isolated, training = split_isolated(read(real_data / "data" / name, FILES[name][0]))
    elements = elements_of(training)
    e0s = e0s_from_isolated(isolated) if isolated else e0s_average(training, elements)
    graphs = build_graphs(training, elements, 4.0, e0_list(e0s, elements))
    assert max(abs(graph.energy) / len(graph.species) for graph in graphs) < 20  # eV: interaction energies, not total ones
    loader = Loader(graphs, 5, seed=0)
    assert sum(len(step.indices) for step in loader.epoch(0)) == len(graphs)
    assert sum(len(step.indices) for step in pack_all(graphs)) == len(graphs)
    report = loader.report()
    assert report["node_efficiency"] > 0.7 and report["slot_efficiency"] > 0.3 and len(report["shapes"]) <= 4
