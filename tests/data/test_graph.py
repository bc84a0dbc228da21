"""One structure -> one graph: positions, labels, E0s."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from macejax.data.graph import build_graph, build_graphs
from macejax.data.structure import DataError, Structure
from tests import structures as zoo


def edge_vectors(graph) -> np.ndarray:
    return graph.positions[graph.senders] + graph.shift @ graph.cell - graph.positions[graph.receivers]


@pytest.mark.parametrize("name", zoo.ZOO)
def test_positions_are_small_and_edges_are_short(name: str) -> None:
    graph = build_graph(zoo.structure(name), zoo.ELEMENTS, zoo.CUTOFF)
    np.testing.assert_allclose(graph.positions.mean(axis=0), 0, atol=1e-9)
    lengths = np.linalg.norm(edge_vectors(graph), axis=1)
    assert np.all(lengths < zoo.CUTOFF)
    counts = np.bincount(graph.receivers, minlength=len(graph.species))
    assert graph.max_degree == counts.max(initial=0)
    for receiver, count in enumerate(counts):
        np.testing.assert_array_equal(graph.rank[graph.receivers == receiver], np.arange(count))
    np.testing.assert_allclose(edge_vectors(graph)[graph.reverse], -edge_vectors(graph), atol=1e-12)


@pytest.mark.parametrize(("far", "near"), [("far_away", "zero_cell"), ("far_away_crystal", "silicon8")])
def test_float32_sees_nothing_of_the_distance_from_the_origin(far: str, near: str) -> None:
    """Wrapped and centred before the cast, distances are right to float32's last digit, not to 1e-3 Angstrom."""

    def lengths(name: str) -> np.ndarray:
        graph = build_graph(zoo.structure(name), zoo.ELEMENTS, zoo.CUTOFF)
        return np.sort(np.linalg.norm(edge_vectors(graph._replace(positions=graph.positions.astype(np.float32))), axis=1))

    np.testing.assert_allclose(lengths(far), lengths(near), atol=5e-6)


def test_open_direction_is_not_wrapped() -> None:
    image = zoo.atoms("slab")
    graph = build_graph(zoo.structure("slab"), zoo.ELEMENTS, zoo.CUTOFF)
    np.testing.assert_allclose(graph.positions[:, 2], image.positions[:, 2] - image.positions[:, 2].mean(), atol=1e-10)


def test_e0s_are_taken_off_in_float64() -> None:
    e0s = np.linspace(-3e4, -13.6, len(zoo.ELEMENTS))
    structure = zoo.labelled("ethanol")
    total = float(np.sum([e0s[zoo.ELEMENTS.index(number)] for number in structure.numbers]))
    graph = build_graph(structure._replace(energy=total + 0.125), zoo.ELEMENTS, zoo.CUTOFF, e0s, 7)
    assert graph.energy == pytest.approx(0.125, abs=1e-9)
    assert graph.e0 == pytest.approx(total, rel=1e-15)
    assert graph.index == 7
    assert np.isnan(build_graph(zoo.structure("ethanol"), zoo.ELEMENTS, zoo.CUTOFF, e0s).energy)


def test_unknown_element_names_element_file_frame_and_model() -> None:
    with pytest.raises(DataError, match=r"a\.xyz:frame 4: contains Si; the model knows only H, C, O"):
        build_graph(zoo.structure("silicon2")._replace(source="a.xyz:frame 4"), (1, 6, 8), 5.0)


def test_invalid_structure_is_refused_before_the_search() -> None:
    structure = zoo.structure("water")
    with pytest.raises(DataError, match="positions holds nan"):
        build_graph(structure._replace(positions=structure.positions * np.nan), zoo.ELEMENTS, 5.0)


def test_stress_gives_virials_and_virials_stress() -> None:
    structure = zoo.labelled("left_handed")._replace(weights={"stress": 0.25})
    size = abs(np.linalg.det(structure.cell))
    graph = build_graph(structure, zoo.ELEMENTS, zoo.CUTOFF)
    np.testing.assert_allclose(graph.virials, -size * structure.stress)
    assert graph.weights == {"energy": 1.0, "forces": 1.0, "stress": 0.25, "virials": 0.25, "dipole": 1.0, "polarizability": 1.0}
    back = build_graph(structure._replace(stress=None, virials=graph.virials, weights={"virials": 0.5}), zoo.ELEMENTS, zoo.CUTOFF)
    np.testing.assert_allclose(back.stress, structure.stress)
    assert back.weights["stress"] == 0.5


def test_virials_without_volume_give_no_stress() -> None:
    graph = build_graph(zoo.structure("water")._replace(virials=np.eye(3)), zoo.ELEMENTS, zoo.CUTOFF)
    assert graph.stress is None and graph.virials is not None


def test_graphs_of_a_data_set_know_their_place() -> None:
    structures = [zoo.structure("water"), zoo.structure("copper1")]
    assert [graph.index for graph in build_graphs(structures, zoo.ELEMENTS, 3.0)] == [0, 1]


def test_input_is_not_changed() -> None:
    structure: Structure = zoo.labelled("far_away_crystal")
    before = structure.positions.copy()
    build_graph(structure, zoo.ELEMENTS, zoo.CUTOFF)
    np.testing.assert_array_equal(structure.positions, before)


def test_atoms_that_are_there_twice_are_told_once_for_each_file() -> None:
    """Also where they only meet through the cell."""
    cell, pbc = np.diag([3.0, 5.0, 5.0]), np.array([True, True, False])
    places = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.9995, 0.0, 0.0]])
    twice = Structure(np.array([6, 8, 6]), places, cell, pbc)
    apart = [twice._replace(positions=places + np.diag([0, 0, 1.0]), source="a.xyz:frame 0"), twice._replace(pbc=np.zeros(3, bool))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_graphs(apart, zoo.ELEMENTS, 3.0)
    several = [*apart, *(twice._replace(source=f"{file}:frame {n}") for file, n in (("a.xyz", 4), ("a.xyz", 5), ("b.xyz", 0)))]
    with pytest.warns(UserWarning) as said:
        build_graphs(several, zoo.ELEMENTS, 3.0)
    first, second = (str(warning.message) for warning in said)
    assert first.startswith("a.xyz: in 2 of the structures") and "first in a.xyz:frame 4, atoms 0 and 2 (counted from 0)" in first
    assert second.startswith("b.xyz: in 1 of the structures")
