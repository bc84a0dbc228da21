"""Every line of THE CONTRACT about a batch, checked slot by slot."""

from __future__ import annotations

import time

import jraph
import numpy as np
import pytest

from macejax.data.batch import Capacity, batch, capacity_for, round_slots, stack
from macejax.data.graph import Graph, build_graph
from macejax.data.structure import DataError, volume
from tests import structures as zoo

MIXED = ("hydrogen_atom", "ethanol", "slab", "copper1", "triclinic22", "hydrogen_0", "needle")
BATCH_TIME = 1e-3  # s, for five molecules of ethanol: batches are made beside a training step of a few ms


def graphs_of(names: tuple[str, ...] = MIXED) -> list[Graph]:
    return [build_graph(zoo.labelled(name), zoo.ELEMENTS, zoo.CUTOFF, index=10 + place) for place, name in enumerate(names)]


def check_contract(rows: jraph.GraphsTuple, graphs: list[Graph], capacity: Capacity, dtype: type) -> None:
    num_nodes, num_slots, num_graphs, num_species = capacity[:4]
    nodes, edges, fields = rows.nodes, rows.edges, rows.globals
    shapes = {
        "positions": ((num_nodes, 3), dtype),
        "species": ((num_nodes,), np.int32),
        "slot": ((num_nodes,), np.int32),
        "graph": ((num_nodes,), np.int32),
        "mask": ((num_nodes,), bool),
        "forces": ((num_nodes, 3), dtype),
        "forces_mask": ((num_nodes, 3), bool),
        "charges": ((num_nodes,), dtype),
        "image": ((num_nodes, 3), np.int32),
        **({"positions_low": ((num_nodes, 3), dtype)} if dtype == np.float32 else {}),
    }
    assert {key: (array.shape, array.dtype.type) for key, array in nodes.items()} == {
        key: (shape, np.dtype(kind).type) for key, (shape, kind) in shapes.items()
    }
    assert {key: (array.shape, array.dtype.type) for key, array in edges.items()} == {
        "shift": ((num_nodes * num_slots, 3), np.int32),
        "mask": ((num_nodes * num_slots,), np.bool_),
        "reverse": ((num_nodes * num_slots,), np.int32),
    }
    for key, array in fields.items():
        assert array.shape[0] == (num_species if key == "species_table" else num_graphs), key
        assert array.dtype in (np.int32, np.bool_, dtype), key
    assert rows.n_node.sum() == num_nodes and rows.n_edge.sum() == num_nodes * num_slots
    np.testing.assert_array_equal(rows.n_edge, num_slots * rows.n_node)
    assert rows.senders.dtype == rows.receivers.dtype == rows.n_node.dtype == rows.n_edge.dtype == np.int32
    np.testing.assert_array_equal(rows.receivers, np.repeat(np.arange(num_nodes), num_slots))  # the receiver owns the row
    real = len(graphs)
    np.testing.assert_array_equal(fields["mask"], np.arange(num_graphs) < real)
    assert not fields["mask"][-1]
    np.testing.assert_array_equal(fields["species_table"][nodes["slot"]][nodes["mask"]], nodes["species"][nodes["mask"]])
    start = 0
    for number, graph in enumerate(graphs):
        stop = start + len(graph.species)
        check_graph(rows, graph, number, start, stop, num_slots, dtype)
        start = stop
    check_padding(rows, start, real, num_slots)


def check_graph(rows: jraph.GraphsTuple, graph: Graph, number: int, start: int, stop: int, num_slots: int, dtype: type) -> None:
    nodes, edges, fields = rows.nodes, rows.edges, rows.globals
    np.testing.assert_array_equal(nodes["positions"][start:stop], graph.positions.astype(dtype))
    if dtype == np.float32:
        whole = nodes["positions"][start:stop].astype(np.float64) + nodes["positions_low"][start:stop]
        np.testing.assert_allclose(whole, graph.positions, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(fields["cell"][number].astype(np.float64) + fields["cell_low"][number], graph.cell, rtol=1e-13)
    np.testing.assert_array_equal(nodes["species"][start:stop], graph.species)
    np.testing.assert_array_equal(nodes["graph"][start:stop], number)
    assert nodes["mask"][start:stop].all() and rows.n_node[number] == stop - start
    expected = {}
    for receiver, sender, shift, reverse in zip(graph.receivers, graph.senders, graph.shift, graph.reverse, strict=True):
        mirrored = (graph.receivers[reverse], graph.senders[reverse], *graph.shift[reverse])
        expected[(int(receiver), int(sender), *shift.tolist())] = tuple(int(x) for x in mirrored)
    found = {}
    for slot in range(start * num_slots, stop * num_slots):
        if edges["mask"][slot]:
            key = slot // num_slots - start, int(rows.senders[slot]) - start, *edges["shift"][slot].tolist()
            back = int(edges["reverse"][slot])
            assert edges["mask"][back] and edges["reverse"][back] == slot
            found[key] = back // num_slots - start, int(rows.senders[back]) - start, *edges["shift"][back].tolist()
    assert found == expected
    np.testing.assert_array_equal(fields["cell"][number], graph.cell.astype(dtype))
    assert fields["volume"][number] == dtype(volume(graph.cell))
    assert fields["index"][number] == graph.index
    assert fields["weight"][number] == dtype(graph.weight)
    for name in ("energy", "stress", "virials"):
        label = getattr(graph, name)
        known = label is not None and not np.isnan(label).any()
        assert fields[f"{name}_mask"][number] == known
        np.testing.assert_array_equal(fields[name][number], np.asarray(label, dtype) if known else 0)
        assert fields[f"{name}_weight"][number] == dtype(graph.weights[name])
    known_forces = np.zeros((stop - start, 3), bool) if graph.forces is None else ~np.isnan(graph.forces)
    np.testing.assert_array_equal(nodes["forces_mask"][start:stop], known_forces)
    np.testing.assert_array_equal(
        nodes["forces"][start:stop], np.where(known_forces, graph.forces, 0).astype(dtype) if known_forces.any() else 0
    )


def check_padding(rows: jraph.GraphsTuple, start: int, real: int, num_slots: int) -> None:
    nodes, edges, fields = rows.nodes, rows.edges, rows.globals
    slots = np.arange(len(rows.senders))
    empty = ~edges["mask"]
    np.testing.assert_array_equal(rows.senders[empty], rows.receivers[empty])
    np.testing.assert_array_equal(edges["reverse"][empty], slots[empty])
    assert not edges["shift"][empty].any()
    assert not nodes["mask"][start:].any() and not nodes["species"][start:].any() and not nodes["forces_mask"][start:].any()
    np.testing.assert_array_equal(nodes["graph"][start:], real)  # the first padding structure
    assert rows.n_node[real] == len(nodes["mask"]) - start and not rows.n_node[real + 1 :].any()
    padding = slice(real, None)
    np.testing.assert_array_equal(fields["cell"][padding], np.broadcast_to(np.eye(3), fields["cell"][padding].shape))
    assert np.all(fields["volume"][padding] == 1) and np.all(fields["index"][padding] == -1)
    for key in (
        "energy_mask",
        "stress_mask",
        "virials_mask",
        "weight",
        "energy_weight",
        "forces_weight",
        "stress_weight",
        "virials_weight",
    ):
        assert not fields[key][padding].any(), key


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("room", [(0, 0, 0, 0), (1, 4, 1, 2), (300, 40, 9, 0)])
def test_contract(room: tuple[int, ...], dtype: type) -> None:
    graphs = graphs_of()
    capacity = Capacity(*(size + more for size, more in zip(capacity_for(graphs)[:4], room, strict=True)))
    check_contract(batch(graphs, capacity, dtype), graphs, capacity, dtype)


def test_labels_and_weights_that_are_partly_missing() -> None:
    forces = np.ones((9, 3))
    forces[2, 1] = np.nan
    ethanol = zoo.structure("ethanol")
    structures = [ethanol, ethanol._replace(forces=forces, weight=0.5, weights={"forces": 0.25}), zoo.labelled("silicon2")]
    graphs = [build_graph(structure, zoo.ELEMENTS, zoo.CUTOFF) for structure in structures]
    capacity = capacity_for(graphs)
    rows = batch(graphs, capacity, np.float64)
    check_contract(rows, graphs, capacity, np.float64)
    assert np.isfinite(rows.nodes["forces"]).all()
    assert rows.nodes["forces_mask"].sum() == 26 + 6
    assert rows.globals["energy_mask"].tolist() == [False, False, True, False]


def test_batch_of_nothing() -> None:
    capacity = Capacity(nodes=5, slots=4, graphs=3, species=2)
    check_contract(batch([], capacity, np.float32), [], capacity, np.float32)


def test_species_table_repeats_the_first_species() -> None:
    """Of silicon alone, whose index is not 0."""
    graphs = graphs_of(("silicon2",))
    capacity = capacity_for(graphs)._replace(species=3)
    rows = batch(graphs, capacity)
    check_contract(rows, graphs, capacity, np.float32)
    assert rows.globals["species_table"].tolist() == [zoo.ELEMENTS.index(14)] * 3


def test_capacity_is_tight() -> None:
    graphs = graphs_of(("hydrogen_atom", "ethanol"))
    assert capacity_for(graphs) == Capacity(nodes=10, slots=8, graphs=3, species=3)
    assert capacity_for(graphs, growth=1.3) == Capacity(nodes=13, slots=12, graphs=3, species=3)
    assert capacity_for([]) == Capacity(1, 4, 1, 1)
    assert [round_slots(degree) for degree in (0, 1, 4, 5, 8)] == [4, 4, 4, 8, 8]


@pytest.mark.parametrize("field", Capacity._fields[:4])
def test_overflow_is_an_error_with_both_sizes(field: str) -> None:
    graphs = graphs_of()
    capacity = capacity_for(graphs)
    short = capacity._replace(**{field: getattr(capacity, field) - (4 if field == "slots" else 1)})
    with pytest.raises(DataError, match=f"needs {getattr(capacity, field)} {field}, but its capacity is {getattr(short, field)} {field}"):
        batch(graphs, short)


def test_classes_hold_every_atom_once_in_rows_that_are_wide_enough() -> None:
    graphs = graphs_of(("ethanol", "silicon8"))
    capacity = capacity_for(graphs, growth=1.3, classes=4)
    assert len(capacity.classes) > 1 and capacity.num_slots < 0.8 * capacity.nodes * capacity.slots
    made = batch(graphs, capacity)
    degrees = made.edges["mask"].reshape(capacity.nodes, -1).sum(axis=1)
    order = np.concatenate(list(made.nodes["classes"].values()))
    np.testing.assert_array_equal(order[made.nodes["row"]], np.arange(capacity.nodes))
    for width, atoms in made.nodes["classes"].items():
        assert degrees[atoms].max() <= width and (np.diff(atoms) > 0).all()
    narrow = ((capacity.nodes - 1, 4), (1, capacity.slots))
    with pytest.raises(DataError, match="but all rows of more than 4 are taken"):
        batch(graphs, capacity._replace(classes=narrow))
    with pytest.raises(ValueError, match=f"are not those of {capacity.nodes} rows"):
        batch(graphs, capacity._replace(classes=narrow[:1]))


def test_stack() -> None:
    graphs = graphs_of(("ethanol", "ethanol"))
    capacity = capacity_for(graphs)
    one, other = batch(graphs, capacity), batch(graphs[:1], capacity)
    both = stack([one, other])
    assert both.nodes["positions"].shape == (2, 18, 3)
    np.testing.assert_array_equal(both.edges["reverse"][1], other.edges["reverse"])
    np.testing.assert_array_equal(both.globals["mask"], [one.globals["mask"], other.globals["mask"]])
    alone = stack([one])
    assert alone.n_node.shape == (1, 3) and alone.globals["species_table"].shape == (1, 3)


def test_batching_is_quick() -> None:
    graphs = graphs_of(("ethanol",)) * 5
    capacity = capacity_for(graphs)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        batch(graphs, capacity)
        times.append(time.perf_counter() - start)
    assert min(times) < BATCH_TIME


def test_positions_of_the_input_and_what_dipoles_need() -> None:
    """`image` and `origin` take wrapping and centring back; labels and charges are where the contract says, with masks."""
    crystal, water = zoo.labelled("triclinic22"), zoo.labelled("fragments")
    far = crystal.positions + np.array([5, -3, 2])[None] @ crystal.cell
    alpha = np.array([[2.0, 0.1, 0.0], [0.1, 3.0, 0.2], [0.0, 0.2, 4.0]])
    labelled = water._replace(dipole=np.array([0.1, 0.2, 0.3]), polarizability=alpha, charges=np.linspace(-1, 1, 6), total_charge=1.0)
    structures = [crystal._replace(positions=far), labelled._replace(weights={"dipole": 2.0})]
    graphs = [build_graph(structure, zoo.ELEMENTS, zoo.CUTOFF) for structure in structures]
    rows = batch(graphs, capacity_for(graphs), np.float64)
    nodes, fields = rows.nodes, rows.globals
    cell, origin = (fields[name][nodes["graph"]] for name in ("cell", "origin"))
    back = nodes["positions"] - np.einsum("na,nab->nb", nodes["image"], cell) + origin
    np.testing.assert_allclose(back[nodes["mask"]], np.concatenate([s.positions for s in structures]), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(fields["dipole_mask"], [False, True, False])
    np.testing.assert_array_equal(fields["polarizability_mask"], [False, True, False])
    np.testing.assert_array_equal(fields["dipole"][1], labelled.dipole)
    np.testing.assert_array_equal(fields["polarizability"][1], alpha)
    np.testing.assert_array_equal(fields["dipole_weight"], [1, 2, 0])
    np.testing.assert_array_equal(fields["total_charge"], [0, 1, 0])
    np.testing.assert_array_equal(nodes["charges"][nodes["graph"] == 1], labelled.charges)
    assert not nodes["charges"][nodes["graph"] != 1].any()
