"""Tables for radial networks: forces as promised, smooth to the cutoff, a model like any other; and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.io import read

import macejax
from macejax.checkpoint.load import load_model
from macejax.checkpoint.model_file import save_model
from macejax.checkpoint.torch_export import TorchExportError, to_torch
from macejax.cli.main import main
from macejax.config import ConfigError, ModelConfig
from macejax.data.batch import capacity_for
from macejax.data.write import write
from macejax.model.geometry import edge_vectors
from macejax.model.mace import TABULATED
from macejax.model.nonlinear import RealAgnosticResidualNonLinear
from macejax.model.tabulate import TOLERANCE
from macejax.ops.spline import coefficients, spline
from tests.physics.quick import check
from tests.structures import atoms, structure

SMALL = {"elements": (1, 6, 8, 14), "e0s": (0.0,) * 4, "hidden_irreps": "16x0e + 16x1o", "l_max": 1, "correlation": 1, "scale": 3.0}
LOOSE = 1e-2
SAME = 1e-8  # eV/Angstrom, of a file
UNCUT = {"apply_cutoff": False, "radial_basis": "gaussian"}
WITHOUT_PASSING = {**SMALL, "cutoff": 3.0, "num_interactions": 1, "hidden_irreps": "4x0e", "correlation": 1}


def model_of(**options) -> macejax.Model:
    return macejax.init_model(ModelConfig(**{**SMALL, **options}), jax.random.key(0), np.float64)


@pytest.fixture(scope="module")
def plain():
    return model_of(cutoff=4.0)


@pytest.fixture(scope="module")
def table(plain):
    return macejax.tabulate(plain)


@pytest.fixture(autouse=True)
def x64_stays():
    """Commands set the precision of their process, which here is that of the tests."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def test_a_spline_of_polynomials_is_exact_in_all_derivatives_and_batches():
    rng = np.random.default_rng(0)
    powers = rng.normal(size=(6, 3))
    knots = np.arange(9) / 8

    def derivative(x, order):
        return sum(np.prod(np.arange(p, p - order, -1)) * powers[p] * x[..., None] ** (p - order) for p in range(order, 6))

    made = coefficients(*(derivative(knots, order) / 8**order for order in range(3)))
    x, function = rng.uniform(0, 1, 20), lambda x: spline(jnp.asarray(made), 8 * x)
    for order in range(4):
        np.testing.assert_allclose(jax.vmap(function)(x), derivative(x, order), rtol=1e-9, atol=1e-9)
        function = jax.jacfwd(function) if order % 2 else jax.jacrev(function)
    of_table = jax.grad(lambda made: spline(made, 8 * x)[:, 1].sum())(jnp.asarray(made))
    assert float(of_table[:, 0, 1].sum()) == pytest.approx(20) and not of_table[..., 0].any()


def test_beyond_its_knots_a_spline_is_constant_and_nan_stays():
    made = jnp.asarray(coefficients(np.array([[1.0], [2.0]]), np.ones((2, 1)), np.zeros((2, 1))))
    x = jnp.array([0.0, 1.0, 7.0, 1e30, np.inf, np.nan])
    np.testing.assert_array_equal(spline(made, x)[:, 0], [1, 2, 2, 2, 2, np.nan])
    np.testing.assert_array_equal(jax.vmap(jax.grad(lambda x: spline(made, x)[0]))(x)[1:5], 0)


@pytest.mark.thorough
def test_forces_keep_the_promise_and_the_tolerance_acts(plain, table):
    found = [structure("silicon8")]
    error = macejax.precision_error(table, found, "float64", exact=plain)
    assert 0 < error.forces_rms and error.forces_max < TOLERANCE and error.energy_max < 1e-6
    loose = macejax.tabulate(plain, LOOSE)
    assert loose.config.radial_table.intervals <= table.config.radial_table.intervals
    assert sum(loose.config.radial_table.functions) < sum(table.config.radial_table.functions) < 2 * 64
    assert TOLERANCE < macejax.precision_error(loose, found, "float64", exact=plain).forces_max < LOOSE
    assert macejax.precision_error(table, found, "float32", exact=plain).forces_max < 10 * TOLERANCE


@pytest.mark.parametrize(
    ("block", "options"),
    [("RealAgnosticDensity", {}), ("RealAgnosticDensityResidual", UNCUT), ("RealAgnosticResidual", UNCUT)],
    ids=["density", "density, cutoff of weights", "cutoff of weights"],
)
def test_other_blocks_and_cutoffs(block, options):
    assert block in TABULATED
    plain = model_of(**WITHOUT_PASSING | {"interaction_first": block, "interaction": block, **options})
    table = macejax.tabulate(plain)
    assert "radial_mlp" not in table.params["params"]["interaction_0"] and "density" not in table.params["params"]["interaction_0"]
    assert macejax.precision_error(table, [structure("ethanol")], "float64", exact=plain).forces_max < TOLERANCE


@pytest.mark.thorough
def test_the_contract_holds():
    """Derivatives, the cutoff, NaN."""
    table = macejax.tabulate(model_of(**WITHOUT_PASSING))
    found = [structure("ethanol")]
    check(macejax.build(table.config).apply, table.params, table.config, structures=found, rows=(1, 3, 7, 9, 10, 19), raise_on_failure=True)


@pytest.mark.thorough
def test_third_derivatives_are_finite_and_those_of_the_network():
    """Along one direction; fourth roots of the error that energies have."""
    plain = model_of(**WITHOUT_PASSING)
    graphs = [macejax.build_graph(structure("water"), plain.config.elements, 3.0)]
    graph = macejax.batch(graphs, capacity_for(graphs), np.float64)
    direction = jax.random.normal(jax.random.key(1), edge_vectors(graph).shape, np.float64)
    found = []
    for model in (plain, macejax.tabulate(plain)):
        vectors, apply = edge_vectors(graph), macejax.build(model.config).apply
        function = lambda s, model=model, vectors=vectors, apply=apply: apply(model.params, vectors + s * direction, graph).sum()  # noqa: E731
        found.append(float(jax.jit(jax.grad(jax.grad(jax.jacfwd(function))))(0.0)))
    assert np.isfinite(found).all() and found[1] == pytest.approx(found[0], rel=1e-2)


@pytest.mark.thorough
def test_it_is_saved_and_runs_in_calculator_and_commands(plain, table, tmp_path, capsys):
    save_model(tmp_path / "t.mace", table)
    save_model(tmp_path / "p.mace", plain)
    again = load_model(tmp_path / "t.mace")
    jax.tree.map(np.testing.assert_array_equal, again.params, table.params)
    water = atoms("water")
    forces = []
    for calculator in (macejax.Calculator(plain), macejax.Calculator(plain, radial="table"), macejax.Calculator(again)):
        water.calc = calculator
        forces.append(water.get_forces())
    assert 0 < np.abs(forces[1] - forces[0]).max() < TOLERANCE * np.abs(forces[0]).max()
    np.testing.assert_allclose(forces[2], forces[1], rtol=0, atol=1e-13)
    write(tmp_path / "w.xyz", [structure("water")])
    with pytest.raises(SystemExit):
        options = ["--radial", "table", "--precision-error", "-o", str(tmp_path / "o.xyz")]
        main(["evaluate", str(tmp_path / "p.mace"), str(tmp_path / "w.xyz"), *options])
    told = macejax.precision_error(table, [structure("water")], "float64", exact=plain)
    assert f"float64 against float64: {told}" in capsys.readouterr().out and told.forces_max > 0
    ends = []
    for engine, *options in (("ase", "--radial", "table"), ("jax", "--radial", "table"), ("ase",)):
        files = ["-o", str(tmp_path / f"{len(ends)}.xyz"), "--log", str(tmp_path / f"{len(ends)}.jsonl"), "--steps", "0"]
        with pytest.raises(SystemExit) as stopped:
            main(["md", str(tmp_path / "p.mace"), str(tmp_path / "w.xyz"), "--engine", engine, *files, *options])
        assert not stopped.value.code
        ends.append(read(tmp_path / f"{len(ends)}.xyz").get_forces())
    assert np.abs(ends[0] - ends[1]).max() < SAME < np.abs(ends[0] - ends[2]).max()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"distance_transform": "Agnesi"}, "Agnesi transform: they depend on the elements"),
        ({"interaction": "RealAgnosticResidualNonLinear", "apply_cutoff": False}, "NonLinear: it reads more than the length"),
    ],
    ids=["Agnesi", "NonLinear"],
)
def test_what_has_no_table_is_refused(change, sentence):
    config = ModelConfig(**{**SMALL, **change})
    with pytest.raises(ConfigError, match=sentence):
        macejax.tabulate(macejax.Model(config, {}))


def test_what_a_table_is_not_for_is_refused(plain, table):
    with pytest.raises(ConfigError, match="a table already"):
        macejax.tabulate(table)
    with pytest.raises(ConfigError, match="no table of 2048 intervals has an error of 1e-15"):
        macejax.tabulate(plain, 1e-15)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        macejax.tabulate(plain, 0.0)
    with pytest.raises(ValueError, match="make them from a model"):
        macejax.init_model(table.config, jax.random.key(0))
    with pytest.raises(ValueError, match="go with the blocks"):
        macejax.build(table.config, interaction=RealAgnosticResidualNonLinear)
    with pytest.raises(TorchExportError, match="no tables of radial functions"):
        to_torch(table)
    with pytest.raises(ConfigError, match="site_energy of your own"):
        macejax.Calculator(plain, radial="table", site_energy=lambda *_: None)
    with pytest.raises(ConfigError, match="'network' or 'table'"):
        macejax.Calculator(plain, radial="spline")
