"""Every MACE that the dictionary of blocks can make keeps the contract of a potential."""

from __future__ import annotations

import itertools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import pytest

from macejax.config import ModelConfig
from macejax.config.model import UNCUT
from macejax.model.mace import INTERACTIONS, layer_irreps
from macejax.model.model import build, init_model
from macejax.testing import Report
from macejax.testing.check import FLOAT64_ONLY
from tests.physics.quick import check
from tests.structures import ELEMENTS, SMALL_CUTOFF, ZOO, structure

# Rows that need no further function compiled than energy and forces at one shape.
FORWARD = (1, 2, 4, 5, 6, 9, 11, 12, 13, 15, 16, 19, 20)
OTHERS = tuple(sorted({*range(1, 22)} - {*FORWARD}))
FEW = ["hydrogen_1e-8", "water", "salt", "triclinic22", "slab"]
SPARSE = [name for name in ZOO if name != "crowd"]  # whose atoms have at most 16 neighbours within SMALL_CUTOFF
ATTENTION, NONLINEAR = "RealAgnosticAttResidual", "RealAgnosticResidualNonLinear"
# With a density or without; a density is the same whichever the other block.
PAIRS = [
    *itertools.product(("RealAgnostic", "RealAgnosticResidual"), repeat=2),
    *itertools.product(("RealAgnosticDensity", "RealAgnosticDensityResidual"), repeat=2),
    ("RealAgnosticResidual", ATTENTION),
    (ATTENTION, ATTENTION),
    (NONLINEAR, NONLINEAR),
    ("RealAgnostic", NONLINEAR),
]
COMBINATIONS = [(*pair, hidden) for pair in PAIRS for hidden in ("4x0e", "4x0e + 4x1o")]
# Every block but that with attention; (RealAgnostic, RealAgnosticResidual, L = 1) is what the first tests use.
QUICK = [
    ("RealAgnosticResidual", "RealAgnostic", "4x0e + 4x1o"),
    ("RealAgnosticDensity", "RealAgnosticDensityResidual", "4x0e + 4x1o"),
    (NONLINEAR, NONLINEAR, "4x0e"),
]
REST = [
    ("RealAgnostic", "RealAgnostic", "4x0e"),
    ("RealAgnosticResidual", "RealAgnosticResidual", "4x0e"),
    ("RealAgnosticResidual", ATTENTION, "4x0e + 4x1o"),
    (NONLINEAR, NONLINEAR, "4x0e + 4x1o"),
]


def config(first: str = "RealAgnostic", other: str = "RealAgnosticResidual", hidden: str = "4x0e + 4x1o", **options: object) -> ModelConfig:
    """A tiny MACE of the elements of the zoo."""
    if {first, other} & set(UNCUT):
        options = {"apply_cutoff": False} | options
    sizes = {"l_max": 2, "correlation": 2, "num_bessel": 4, "radial_mlp": (8, 8), "avg_num_neighbors": 8.0, "cutoff": SMALL_CUTOFF}
    options = {"e0s": (0.0,) * len(ELEMENTS)} | sizes | options
    return ModelConfig(elements=ELEMENTS, interaction_first=first, interaction=other, hidden_irreps=hidden, **options)


def report_of(model_config: ModelConfig, names: list[str], **options: object) -> Report:
    """check_potential of that MACE with random parameters, on structures of the zoo."""
    module = build(model_config)
    model = init_model(model_config, jax.random.key(0), jnp.float64)
    single = [str(e3nn.Irreps([(1, ir) for _, ir in e3nn.Irreps(irreps)])) for irreps in layer_irreps(model_config)]
    return check(
        module.apply,
        model.params,
        model_config,
        structures={name: structure(name) for name in names},
        features=lambda params, vectors, graph: module.apply(params, vectors, graph, method="features"),
        feature_irreps=single,
        **options,
    )


def test_a_mace_keeps_the_promises_of_energies_and_forces() -> None:
    report = report_of(config(), SPARSE, rows=FORWARD)
    assert report.passed, str(report)


# Features that are all 0; forces that are rounding, by which nothing may be scaled.
@pytest.mark.parametrize(("name", "rows"), [("hydrogen_atom", (4,)), ("copper1", (11, 16))])
def test_one_structure_is_enough(name: str, rows: tuple[int, ...]) -> None:
    report = report_of(config(hidden="4x0e"), [name], rows=rows)
    assert report.passed, str(report)


@pytest.mark.thorough
def test_a_mace_keeps_the_other_promises() -> None:
    report = report_of(config(), FEW[:3], rows=OTHERS)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_mace_keeps_every_promise(dtype: str) -> None:
    report = report_of(config(), SPARSE, dtype=dtype, hurry=dtype == "float64")
    assert report.passed, str(report)
    assert {found.row for found in report.checks} == set(range(1, 22)) - (set(FLOAT64_ONLY) if dtype == "float32" else set())


def test_every_block_is_tested() -> None:
    for place in (0, 1):
        assert {pair[place] for pair in PAIRS} >= set(INTERACTIONS) - {"RealAgnostic"} and {c[place] for c in COMBINATIONS} <= set(
            INTERACTIONS
        )
    assert {name for pair in QUICK for name in pair[:2]} | {ATTENTION} == set(INTERACTIONS)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "other", "hidden"), [*QUICK, *(pytest.param(*blocks, marks=pytest.mark.slow) for blocks in REST)])
def test_every_block_in_every_place(first: str, other: str, hidden: str) -> None:
    report = report_of(config(first, other, hidden), FEW, rows=FORWARD)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("first", "other", "hidden"), COMBINATIONS)
def test_every_combination_keeps_every_promise(first: str, other: str, hidden: str, dtype: str) -> None:
    report = report_of(config(first, other, hidden), list(ZOO), dtype=dtype, hurry=dtype == "float64")
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_interactions": 1},
        {"num_interactions": 3, "correlation": (1, 2, 3)},
        {"hidden": "4x0e + 4x1o + 4x2e", "l_max": 3, "correlation": 3},
        {"contraction_basis": "reduced", "correlation": 3},
        {"model": "MACE", "gate": "tanh"},
        {"scale": 3.0, "shift": -0.7, "cutoff_power": 6},
        {"hidden": "4x0e + 4x0o + 4x1o + 4x1e", "num_interactions": 3, "readout": "NonLinearBias"},
        {"hidden": "4x0e + 4x1e", "so3": True, "radial_basis": "gaussian", "last_readout_only": True},
        {
            "first": NONLINEAR,
            "other": NONLINEAR,
            "edge_irreps": "2x0e + 2x1o + 2x2e",
            "edge_irreps_first_scalar": True,
            "apply_cutoff": False,
            "agnostic_product": True,
            "distance_transform": "Agnesi",
            "pair_repulsion": True,
            "cutoff": 4.0,  # where the repulsion of strontium ends
        },
    ],
    ids=str,
)
def test_larger_and_other_maces(options: dict, dtype: str) -> None:
    report = report_of(config(**options), SPARSE, dtype=dtype, hurry=dtype == "float64")
    assert report.passed, str(report)
