"""What the tests of other parts train, simulate and select with keeps the contract of a potential too."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import pytest

from macejax.config import EmbeddingConfig
from macejax.data.structure import Structure
from macejax.model.model import build, init_model
from tests.marks import rest_is_thorough
from tests.physics.quick import check
from tests.physics.test_mace_contract import FORWARD, SPARSE, config
from tests.simulate import toy as simulated
from tests.structures import ELEMENTS, structure
from tests.train import toy as trained

TWO_HEADS = {
    "heads": ("one", "other"),
    "e0s": ((0.0,) * len(ELEMENTS), (1.0,) * len(ELEMENTS)),
    "scale": (0.7, 1.3),
    "shift": (-0.1, 0.2),
}
EMBEDDINGS = (
    EmbeddingConfig(name="total_charge", type="categorical", emb_dim=3, num_classes=5, offset=2),
    EmbeddingConfig(name="elec_temp", type="continuous", emb_dim=2),
)
TOYS: dict[str, tuple[Callable[..., jax.Array], Any, Any]] = {
    "of training": (
        trained.site_energy,
        trained.init_params(),
        SimpleNamespace(elements=trained.ELEMENTS, cutoff=trained.CUTOFF, num_interactions=1),
    ),
    "of simulations": (
        simulated.morse,
        simulated.toy_model().params,
        SimpleNamespace(elements=simulated.ELEMENTS, cutoff=simulated.CUTOFF, num_interactions=1),
    ),
}


def zoo() -> dict[str, Structure]:
    return {name: structure(name) for name in SPARSE}


def report_of_mace(change: Callable[[jraph.GraphsTuple], jraph.GraphsTuple] = lambda graph: graph, **options: Any) -> Any:
    """check_potential of the energies of a MACE whose batches are changed first."""
    chosen = config(**options)
    module, model = build(chosen), init_model(chosen, jax.random.key(0), jnp.float64)

    def site_energy(params: Any, vectors: jax.Array, graph: jraph.GraphsTuple) -> jax.Array:
        found = module.apply(params, vectors, change(graph))
        return getattr(found, "energy", found)

    return check(site_energy, model.params, chosen, structures=zoo(), rows=FORWARD)


@pytest.mark.parametrize("name", rest_is_thorough(TOYS, ["of simulations"]))
def test_the_toys(name: str) -> None:
    site_energy, params, chosen = TOYS[name]
    report = check(site_energy, params, chosen, rows=FORWARD)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("head", [0, 1])
def test_each_head_of_several(head: int) -> None:
    def of_head(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        return graph._replace(globals=graph.globals | {"head": jnp.where(graph.globals["mask"], head, 0)})

    report = report_of_mace(of_head, **TWO_HEADS)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("readout", [False, True], ids=["without readout", "with readout"])
def test_with_inputs_that_are_embedded(readout: bool) -> None:
    def with_inputs(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
        charge = jnp.ones_like(graph.globals["weight"])
        return graph._replace(globals=graph.globals | {"inputs": {"total_charge": charge, "elec_temp": 0.3 * charge}})

    report = report_of_mace(with_inputs, joint_embedding=EMBEDDINGS, embedding_readout=readout)
    assert report.passed, str(report)


@pytest.mark.slow
def test_the_energies_of_a_model_of_dipoles() -> None:
    report = report_of_mace(model="EnergyDipolesMACE", hidden="4x0e + 4x1o", readout_irreps="3x0e + 2x1o")
    assert report.passed, str(report)
