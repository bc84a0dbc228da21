"""Batches of an epoch: membership, devices, shapes, prefetch."""

from __future__ import annotations

import threading
from itertools import product

import numpy as np
import pytest

from macejax.data.batch import Capacity
from macejax.data.graph import Graph, build_graph
from macejax.data.loader import Loader
from macejax.data.order import order
from macejax.data.structure import DataError, Structure
from tests import structures as zoo

VARIED = ("hydrogen_atom", "ethanol", "benzene", "copper1", "silicon8", "water", "triclinic22", "slab", "needle", "salt")


def molecule(num_atoms: int, seed: int = 0) -> Graph:
    """Atoms on a jittered line: few neighbours, any size."""
    rng = np.random.default_rng([seed, num_atoms])
    positions = np.column_stack([1.1 * np.arange(num_atoms), *rng.normal(scale=0.1, size=(2, num_atoms))])
    structure = Structure(rng.choice([1, 6, 8], num_atoms), positions, energy=float(rng.normal()))
    return build_graph(structure, zoo.ELEMENTS, 3.0)


@pytest.fixture(scope="module")
def varied() -> list[Graph]:
    graphs = [build_graph(zoo.labelled(name), zoo.ELEMENTS, zoo.SMALL_CUTOFF) for name in VARIED * 3]
    return [graph._replace(index=index) for index, graph in enumerate(graphs)]


@pytest.fixture(scope="module")
def alike() -> list[Graph]:
    graphs = [build_graph(zoo.labelled("ethanol", seed), zoo.ELEMENTS, zoo.CUTOFF, index=seed) for seed in range(23)]
    return graphs


@pytest.mark.parametrize(("num_devices", "batch_size"), [*product([1, 2, 4, 8], [1, 4, 7, 30, 64])])
def test_membership_is_that_of_the_order_whatever_the_devices(varied: list[Graph], num_devices: int, batch_size: int) -> None:
    loader = Loader(varied, batch_size, seed=5, num_devices=num_devices, prefetch=0)
    assert loader.steps_per_epoch == -(-len(varied) // batch_size)
    seen = []
    for number, step in enumerate(loader.epoch(3)):
        expected = order(len(varied), 5, 3)[number * batch_size : (number + 1) * batch_size]
        assert sorted(step.indices) == sorted(expected)
        fields = step.batch.globals
        assert fields["mask"].shape[0] == step.batch.nodes["positions"].shape[0] == num_devices
        np.testing.assert_array_equal(fields["index"][fields["mask"]], step.indices)
        seen += step.indices.tolist()
    assert sorted(seen) == list(range(len(varied)))  # the last, partial batch included


def test_every_step_has_one_of_few_shapes(varied: list[Graph]) -> None:
    loader = Loader(varied, 4, seed=0, num_devices=2, shapes=3)
    shapes = {(step.batch.nodes["species"].shape, step.batch.senders.shape) for epoch in range(20) for step in loader.epoch(epoch)}
    assert len(shapes) <= len(loader.capacities) <= 3
    assert len(Loader(varied, 4, seed=0, shapes=1).capacities) == 1


@pytest.mark.parametrize("num_devices", [1, 2, 3])
def test_like_structures_have_one_shape_without_waste(alike: list[Graph], num_devices: int) -> None:
    loader = Loader(alike, 6, seed=0, num_devices=num_devices)
    per_device = 6 // num_devices
    assert loader.capacities == [Capacity(nodes=9 * per_device, slots=8, graphs=per_device + 1, species=3)]
    report = loader.report()
    assert report["node_efficiency"] == pytest.approx(23 / 24)
    assert report["slot_efficiency"] == pytest.approx(23 / 24)  # every atom sees all 8 others
    assert report["shapes_used"] == len(report["shapes"]) == 1


def test_partial_step_gets_no_shape_of_its_own(alike: list[Graph]) -> None:
    loader = Loader(alike[:7], 4, seed=0)
    assert len(loader.capacities) == 1 and loader.capacities[0].nodes == 36
    assert Loader(alike[:3], 4, seed=0).capacities[0].nodes == 27  # no step is larger than the data set


def test_any_step_fits_not_only_those_that_were_looked_at() -> None:
    """One giant among many: nearly every step is small, and the step with the giants fits nevertheless."""
    graphs = [molecule(3, seed) for seed in range(600)] + [molecule(300), molecule(200)]
    loader = Loader(graphs, 2, seed=0, prefetch=0)
    assert len(loader.capacities) > 1
    assert loader.capacities[-1].nodes == 500
    giants = np.array([600, 601, 0])
    assert loader._step(giants, 0).batch.nodes["mask"].sum() == 500
    assert loader.report()["node_efficiency"] > 0.5


def test_unlike_structures_share_a_step_without_paying_for_each_other() -> None:
    graphs = [molecule(10, seed) for seed in range(300)]
    graphs += [build_graph(zoo.labelled("silicon8", seed), zoo.ELEMENTS, 6.0) for seed in range(60)]
    loader = Loader(graphs, 12, seed=0, prefetch=0, shapes=3)
    assert len(loader.capacities) <= 3 and any(capacity.classes for capacity in loader.capacities)
    assert not loader.capacities[-1].classes  # which holds any step
    everyone = np.arange(348, 360)
    assert loader._step(everyone, 0).batch.nodes["mask"].sum() == 96
    one_class = sum(len(graph.senders) for graph in graphs) / (30 * max(capacity.nodes * capacity.slots for capacity in loader.capacities))
    assert loader.report()["slot_efficiency"] > 1.8 * one_class
    for epoch in range(10, 13):  # epochs that were not looked at
        assert sum(len(step.indices) for step in loader.epoch(epoch)) == 360


def test_devices_are_balanced() -> None:
    sizes = np.random.default_rng(0).integers(3, 40, 64)
    (step,) = Loader([molecule(size) for size in sizes], 64, seed=1, num_devices=4, prefetch=0).epoch(0)
    load = step.batch.nodes["mask"].sum(axis=1)
    assert load.sum() == sizes.sum() and load.max() < 1.05 * load.mean()


def test_device_may_hold_nothing(alike: list[Graph]) -> None:
    steps = list(Loader(alike, 4, seed=0, num_devices=4).epoch(0))
    last = steps[-1].batch.globals["mask"]
    assert last.any(axis=1).tolist() == [True, True, True, False]
    assert last.sum() == 23 % 4


def test_processes_agree_on_the_shape_and_share_the_work(varied: list[Graph]) -> None:
    whole = Loader(varied, 6, seed=2, num_devices=4)
    halves = [Loader(varied, 6, seed=2, num_devices=4, devices=devices) for devices in ([0, 1], [2, 3])]
    for step, one, other in zip(whole.epoch(1), halves[0].epoch(1), halves[1].epoch(1), strict=True):
        for key in ("positions", "mask"):
            both = np.concatenate([one.batch.nodes[key], other.batch.nodes[key]])
            np.testing.assert_array_equal(both, step.batch.nodes[key])
        np.testing.assert_array_equal(np.concatenate([one.indices, other.indices]), step.indices)


def test_start_in_the_middle_equals_the_rest(varied: list[Graph]) -> None:
    loader = Loader(varied, 4, seed=0)
    rest = list(loader.epoch(2))[5:]
    for one, other in zip(rest, loader.epoch(2, start_step=5), strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.batch.nodes["positions"], other.batch.nodes["positions"])
    assert list(loader.epoch(2, start_step=loader.steps_per_epoch)) == []


def test_prefetch_changes_nothing(varied: list[Graph]) -> None:
    for one, other in zip(Loader(varied, 4, seed=0, prefetch=0).epoch(0), Loader(varied, 4, seed=0, prefetch=3).epoch(0), strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.batch.edges["reverse"], other.batch.edges["reverse"])


def test_prefetch_works_ahead_and_its_thread_ends(varied: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(varied, 4, seed=0, prefetch=2)
    made: list[int] = []
    make = loader._step
    ahead = threading.Event()

    def counted(permutation: np.ndarray, step: int):
        made.append(step)
        if step == 2:
            ahead.set()
        return make(permutation, step)

    monkeypatch.setattr(loader, "_step", counted)
    steps = loader.epoch(0)
    next(steps)
    assert ahead.wait(10)  # while the consumer still holds step 0
    assert made == [0, 1, 2]
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("macejax-loader")]


def test_error_in_the_background_reaches_the_consumer(alike: list[Graph]) -> None:
    loader = Loader(alike, 4, seed=0)
    loader.capacities[:] = [Capacity(1, 4, 2, 1)]
    with pytest.raises(RuntimeError, match="no capacity of"):
        list(loader.epoch(0))


def test_dtype(alike: list[Graph]) -> None:
    for dtype in (np.float32, np.float64):
        step = next(Loader(alike, 4, seed=0, dtype=dtype).epoch(0))
        assert step.batch.nodes["positions"].dtype == step.batch.globals["stress"].dtype == dtype


def test_refusals(alike: list[Graph]) -> None:
    with pytest.raises(DataError, match="no structure"):
        Loader([], 4, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        Loader(alike, 0, seed=0)
