"""Evaluation: every structure exactly once, in few batches of few shapes."""

from __future__ import annotations

import numpy as np
import pytest

from macejax.config import EmbeddingConfig
from macejax.data import loader
from macejax.data.batch import batch
from macejax.data.graph import build_graph
from macejax.data.pack import pack_all
from tests import structures as zoo

NAMES = [name for name in zoo.ZOO if name != "crowd"]


@pytest.fixture(scope="module")
def graphs():
    return [build_graph(zoo.labelled(name), zoo.ELEMENTS, zoo.SMALL_CUTOFF, index=100 + n) for n, name in enumerate(NAMES * 4)]


@pytest.mark.parametrize("num_devices", [None, 1, 3])
@pytest.mark.parametrize("shapes", [1, 2, 4])
def test_every_structure_exactly_once(graphs, num_devices: int | None, shapes: int) -> None:
    steps = pack_all(graphs, nodes=40, num_devices=num_devices, shapes=shapes)
    assert sorted(np.concatenate([step.indices for step in steps])) == list(range(len(graphs)))
    for step in steps:
        fields = step.batch.globals
        assert fields["mask"].shape[:-1] == (() if num_devices is None else (num_devices,))
        np.testing.assert_array_equal(fields["index"][fields["mask"]], step.indices + 100)
    assert len({(step.batch.nodes["mask"].shape, step.batch.senders.shape, step.batch.n_node.shape) for step in steps}) <= shapes


def test_packs_well(graphs) -> None:
    steps = pack_all(graphs, nodes=64)
    atoms = sum(len(graph.species) for graph in graphs)
    assert atoms / sum(step.batch.nodes["mask"].size for step in steps) > 0.9
    assert all(step.batch.nodes["mask"].size <= 64 for step in steps)


def test_structures_of_like_degree_share_a_batch() -> None:
    """Every second structure is dense: a batch of both kinds would give the sparse ones the slots of the dense."""
    dense = build_graph(zoo.structure("silicon8"), zoo.ELEMENTS, zoo.CUTOFF)
    sparse = build_graph(zoo.structure("water"), zoo.ELEMENTS, zoo.CUTOFF)
    steps = pack_all([dense, sparse] * 24, nodes=24)
    edges = 24 * (len(dense.senders) + len(sparse.senders))
    assert edges / sum(step.batch.edges["mask"].size for step in steps) > 0.9


def test_structure_larger_than_the_wish(graphs) -> None:
    steps = pack_all(graphs[:10], nodes=1)
    assert all(len(step.indices) == 1 for step in steps) and len(steps) == 10


def test_batches_are_made_when_they_are_asked_for(graphs, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(loader, "batch", lambda *arguments, **options: made.append(1) or batch(*arguments, **options))
    steps = pack_all(graphs, nodes=40)
    assert not made
    assert len(steps) > 2 and steps[1].indices.size and len(made) == 1


def test_a_batch_that_cannot_be_made_is_no_end(graphs) -> None:
    steps = pack_all([*graphs[:9], graphs[9]._replace(reverse=graphs[9].reverse + 10**6)], nodes=1)
    with pytest.raises(IndexError):
        list(steps)
    assert len(steps) == 10


def test_nothing_to_pack() -> None:
    assert list(pack_all([])) == []


def test_a_device_without_a_structure_has_the_inputs_too() -> None:
    embeddings = [EmbeddingConfig(name="total_charge", type="continuous", emb_dim=2)]
    graph = build_graph(zoo.structure("water"), zoo.ELEMENTS, zoo.CUTOFF, embeddings=embeddings)
    (step,) = pack_all([graph], num_devices=2)
    assert step.batch.globals["inputs"]["total_charge"].shape == step.batch.globals["mask"].shape
