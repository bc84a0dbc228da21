"""Rows in classes of unlike width: the same numbers and derivatives, in any block, and no scatter."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from macejax.config import ModelConfig
from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.classes import choose_classes
from macejax.data.graph import build_graph
from macejax.data.read import from_atoms
from macejax.model.geometry import edge_vectors
from macejax.model.model import build, init_model
from macejax.ops import blocks
from macejax.potential.predict import predict
from tests.ops.programs import scatters
from tests.structures import ELEMENTS, rattled, structure

CUTOFF = 3.0
NAMES = ("ethanol", "nanotube", "hydrogen_atom", "crowd")
BLOCKS = ("RealAgnostic", "RealAgnosticDensityResidual", True)
ATTENTION = ("RealAgnosticResidual", "RealAgnosticAttResidual", False)


def config_of(first: str, other: str, apply_cutoff: bool) -> ModelConfig:
    return ModelConfig(
        elements=ELEMENTS,
        e0s=(0.0,) * len(ELEMENTS),
        hidden_irreps="2x0e+2x1o",
        l_max=2,
        correlation=2,
        radial_mlp=(4,),
        cutoff=CUTOFF,
        interaction_first=first,
        interaction=other,
        apply_cutoff=apply_cutoff,
    )


def with_and_without():
    """The same structures in a batch of one class, and in one of several with rows to spare."""
    graphs = [build_graph(structure(name), ELEMENTS, CUTOFF) for name in NAMES]
    plain = capacity_for(graphs, growth=1.2)
    above = capacity_for(graphs, growth=1.2, classes=4).classes
    assert len(above) > 1
    return [jax.tree.map(jnp.asarray, batch(graphs, capacity, np.float64)) for capacity in (plain, plain._replace(classes=above))]


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "other", "apply_cutoff"), [BLOCKS, pytest.param(*ATTENTION, marks=pytest.mark.slow)])
def test_classes_change_no_number_and_no_derivative(first: str, other: str, apply_cutoff: bool) -> None:
    config = config_of(first, other, apply_cutoff)
    params, apply = init_model(config, jax.random.key(0), jnp.float64).params, build(config).apply

    def loss(params, graph):
        return jnp.sum(predict(apply, params, graph).forces ** 2)

    @jax.jit
    def everything(params, graph):
        found = predict(apply, params, graph)
        gradient, along = jax.jvp(jax.grad(functools.partial(loss, graph=graph)), (params,), (params,))  # to third order
        return found[:5], gradient, along, apply(params, edge_vectors(graph), graph, method="features")

    one, several = (everything(params, graph) for graph in with_and_without())
    scale = jax.tree.map(lambda x: 1e-12 * (1 + np.nanmax(np.abs(x))), one)
    jax.tree.map(lambda a, b, tolerance: np.testing.assert_allclose(a, b, rtol=1e-10, atol=tolerance), several, one, scale)


OTHERS = {
    "density": {"interaction_first": "RealAgnosticDensity", "interaction": "RealAgnosticDensityResidual"},
    "nonlinear": {"interaction_first": "RealAgnosticResidualNonLinear", "interaction": "RealAgnosticResidualNonLinear"},
    "repulsion": {"pair_repulsion": True, "distance_transform": "Agnesi"},
    "later cutoff": {"apply_cutoff": False},
}


@pytest.mark.bits
@pytest.mark.thorough
@pytest.mark.parametrize("changes", [{}, *(pytest.param(x, marks=pytest.mark.slow, id=name) for name, x in OTHERS.items())])
def test_empty_slots_change_no_bit(changes: dict) -> None:
    """Of energies, forces and stress, whether rows are as long as they need be, or longer than the sums that XLA makes at a time. (XLA has
    other kernels for products of less than 20 slots, and gives wide ones, as those of attention, to several threads: those may.)
    """
    config = ModelConfig(
        elements=(29, 30), e0s=(0.0, 0.0), hidden_irreps="8x0e+8x1o", l_max=2, correlation=2, radial_mlp=(64, 64), cutoff=4.0, **changes
    )
    brass = rattled(bulk("Cu", cubic=True, a=3.7) * 2)
    brass.numbers[::3] = 30
    model, graphs = init_model(config, jax.random.key(0), jnp.float64), [build_graph(from_atoms(brass), config.elements, config.cutoff)]
    need = capacity_for(graphs)
    assert 20 <= need.slots < 32
    evaluate = jax.jit(functools.partial(predict, build(config).apply))
    one, *others = (
        [x.tobytes() for x in evaluate(model.params, batch(graphs, need._replace(slots=slots), np.float64))[:5]]
        for slots in (need.slots, need.slots + 4, 48)
    )
    assert [*others] == [one, one]


@pytest.mark.thorough
def test_blocks_of_several_classes_and_no_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(*BLOCKS)
    params, apply = init_model(config, jax.random.key(0), jnp.float64).params, build(config).apply
    plain, several = with_and_without()
    expected = jax.jit(functools.partial(predict, apply))(params, plain)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 8000)
    monkeypatch.setattr(blocks, "_WHOLE_BYTES", 0)
    lowered = jax.jit(lambda params, graph: predict(apply, params, graph)).lower(params, several)
    assert not scatters(lowered) and "stablehlo.while" in lowered.as_text()
    found = lowered.compile()(params, several)
    np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.forces, expected.forces, rtol=1e-10, atol=1e-12)


def test_a_block_gets_its_share_of_every_class() -> None:
    assert blocks.num_blocks(4, ((420, 20),)) == 105  # one class: as block_size says
    assert blocks.num_blocks(4, ((140, 12), (140, 16), (140, 20))) == 70  # two rows of each in a block, none of them empty


def test_classes_are_few_and_hold_what_they_were_made_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        degrees = rng.integers(0, 60, 40) * (rng.random(40) < 0.3)
        above = np.sum(degrees[:, None] > np.arange(4, 60, 4), axis=0)
        classes = choose_classes(above, 40, 60)
        assert len(classes) in (0, 2, 3, 4) and sum(rows for rows, _ in classes) in (0, 40)
        for end in range(len(classes)):  # wide rows for all wide atoms
            width = classes[end][1]
            assert np.sum(degrees > width) <= sum(rows for rows, other in classes if other > width)
    assert choose_classes(np.array([40, 40]), 40, 12) == ()  # all alike


def test_capacities_compare_row_by_row() -> None:
    room = Capacity(10, 12, 2, 1, ((6, 4), (4, 12)))
    assert room.num_slots == 72 and Capacity(10, 12, 2, 1).num_slots == 120
    assert room.holds(Capacity(10, 12, 2, 1, ((7, 4), (1, 8), (2, 12))))
    assert not room.holds(Capacity(10, 12, 2, 1, ((5, 4), (5, 8))))
    assert not room.holds(Capacity(10, 12, 2, 1)) and Capacity(10, 12, 2, 1).holds(room)
