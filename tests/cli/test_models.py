"""Commands that describe models, and that make other ones of them, where all goes well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import macejax
from macejax.checkpoint.foundation import FOUNDATIONS
from macejax.checkpoint.load import read_header
from macejax.model.heads import select_elements, select_head
from macejax.model.model import Model
from tests.cli.test_commands import run

TWO_HEADS = Path(__file__).parents[1] / "fixtures" / "parity_nonlinear_heads.mace"  # PBE and r2SCAN; O, Al and Ti
MOMENTS = Path(__file__).parents[1] / "fixtures" / "moments_AtomicDielectricMACE.mace"


ROUNDING = 1e-14  # relative: weights are divided by the root of the number of heads, and multiplied again


def assert_same_model(found: Model, expected: Model, rtol: float = 0.0) -> None:
    assert found.config == expected.config
    assert_same_weights(found, expected, rtol)


def assert_same_weights(found: Model, expected: Model, rtol: float) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=0), found.params, expected.params)


def test_a_head_is_added_and_removed_again(capsys, tmp_path):
    original, more, fewer = macejax.load(TWO_HEADS), tmp_path / "more.mace", tmp_path / "fewer.mace"
    code, out, _ = run(capsys, "heads", TWO_HEADS, more, "--add", "SCAN", "--like", "PBE", "--e0", "O=-4.5", "--e0", "Ti=-9")
    assert (
        code == 0 and "SCAN: scale 0.7 eV, shift -0.3 eV, isolated atoms (eV): O -4.5, Al -2, Ti -9" in out and f"written to {more}" in out
    )
    found = macejax.load(more)
    assert found.config.heads == ("PBE", "r2SCAN", "SCAN") and found.config.e0_table[2] == (-4.5, -2.0, -9.0)
    assert_same_weights(select_head(found, "SCAN"), select_head(original, "PBE"), ROUNDING)
    code, out, _ = run(capsys, "heads", more, fewer, "--remove", "SCAN")
    assert code == 0 and out.count(": scale ") == 2 and "SCAN: " not in out.replace("r2SCAN: ", "")
    assert_same_model(macejax.load(fewer), original, ROUNDING)
    code, out, _ = run(capsys, "heads", fewer)
    assert code == 0 and [line.split(":")[0] for line in out.splitlines()] == ["PBE", "r2SCAN"]


def test_convert_cuts_a_model_to_a_head_and_to_elements(capsys, tmp_path):
    arguments = ("convert", TWO_HEADS, tmp_path / "cut.mace")
    code, out, _ = run(capsys, *arguments, "--head", "r2SCAN")
    assert code == 0 and "cut.mace: ScaleShiftMACE, 4x0e + 4x1o" in out
    one = select_head(macejax.load(TWO_HEADS), "r2SCAN")
    assert_same_model(macejax.load(tmp_path / "cut.mace"), one)
    code, out, _ = run(capsys, *arguments, "--head", "r2SCAN", "--elements", "Ti,O", "--overwrite")
    found = macejax.load(tmp_path / "cut.mace")
    assert code == 0 and found.config.elements == (8, 22) and found.config.e0s == (-2.5, -0.4)
    assert_same_model(found, select_elements(one, ["O", "Ti"]))
    assert f"{sum(x.size for x in jax.tree.leaves(found.params))} parameters" in out


EXTRA = {"licence": "ASL", "source": "a.model", "name": "run", "epoch": 3, "mae_rmse": {"test": {"forces": [0.1, 0.2]}}}
LASTING = {name: value for name, value in EXTRA.items() if name != "mae_rmse"}


@pytest.mark.parametrize(
    ("command", "options", "kept"),
    [
        ("convert", (), EXTRA),
        ("convert", ("--dtype", "float32"), EXTRA),
        ("convert", ("--head", "PBE"), LASTING),
        ("convert", ("--elements", "O,Ti"), LASTING),
        ("heads", ("--add", "SCAN"), LASTING),
        ("heads", ("--remove", "PBE"), LASTING),
    ],
    ids=str,
)
def test_a_licence_stays_with_the_model_and_errors_with_the_same_model(capsys, tmp_path, command, options, kept):
    macejax.save(tmp_path / "a.mace", macejax.load(TWO_HEADS), EXTRA)
    code, _, err = run(capsys, command, tmp_path / "a.mace", tmp_path / "b.mace", *options)
    assert code == 0, err
    assert read_header(tmp_path / "b.mace")["extra"] == kept


@pytest.mark.torch
def test_a_licence_goes_to_mace_torch_and_comes_back(capsys, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("mace")
    macejax.save(tmp_path / "a.mace", macejax.load(TWO_HEADS), EXTRA)
    code, out, err = run(capsys, "export", tmp_path / "a.mace", tmp_path / "b.model")
    assert code == 0 and out.endswith("must trust you. Licence: ASL. Source: a.model.\n"), err
    module = torch.load(tmp_path / "b.model", weights_only=False)
    assert (module.licence, module.source) == ("ASL", "a.model")
    assert read_header(tmp_path / "b.model")["extra"].items() >= {"licence": "ASL", "source": "a.model"}.items()
    code, _, err = run(capsys, "convert", tmp_path / "b.model", tmp_path / "c.mace")
    assert code == 0 and read_header(tmp_path / "c.mace")["extra"] == {"licence": "ASL", "source": "a.model"}, err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("heads", TWO_HEADS, "b.mace", "--add", "b", "--e0", "O=nan"), "the energy of O is nan"),
        (("heads", TWO_HEADS, "b.mace", "--add", "b", "--e0", "O=-1", "--e0", "8=-2"), "O is given twice"),
        (("heads", TWO_HEADS, "b.mace", "--add", "b", "--e0", "O=-1", "--e0", "O=-2"), "O is given twice"),
        (("heads", TWO_HEADS, "b.mace", "--add", "b", "--e0", "O"), "write element=energy"),
        (("heads", TWO_HEADS, "b.mace", "--add", ""), "cannot be called ''"),
        (("heads", MOMENTS, "b.mace", "--add", "b"), "an AtomicDielectricMACE has one head"),
        (("heads", "absent.mace", "absent/b.mace", "--add", "b"), "absent/b.mace cannot be written: there is no folder absent"),
        (("convert", "absent.mace", "absent/b.mace"), "absent/b.mace cannot be written: there is no folder absent"),
        (("export", "absent.mace", "absent/b.model"), "absent/b.model cannot be written: there is no folder absent"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_refused_in_a_sentence(capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code in (1, 2) and sentence in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_model_of_moments_is_described_by_what_it_predicts(capsys, tmp_path):
    code, out, _ = run(capsys, "heads", MOMENTS)
    assert code == 0 and out == "Default: predicts dipole, polarizability\n"
    code, out, _ = run(capsys, "info", MOMENTS)
    units = next(line for line in out.splitlines() if line.startswith("units"))
    assert code == 0 and units.split("  ", 1)[1].strip() == "dipole e Angstrom, length Angstrom"
    config = macejax.ModelConfig(
        elements=(1, 8), e0s=(-1.0, -2.0), model="EnergyDipolesMACE", hidden_irreps="2x0e + 2x1o", l_max=1, readout_irreps="2x0e + 2x1o"
    )
    macejax.save(tmp_path / "both.mace", macejax.init_model(config, jax.random.key(0)))
    code, out, _ = run(capsys, "heads", tmp_path / "both.mace")
    assert code == 0 and out == "Default: predicts energy, forces, stress, virials, dipole, isolated atoms (eV): H -1, O -2\n"
    code, out, _ = run(capsys, "info", tmp_path / "both.mace")
    assert "energy eV" in out and "dipole Debye" in out


@pytest.mark.torch
def test_convert_reads_a_training_checkpoint_with_the_configuration_of_another_file(capsys, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("mace")
    from macejax.checkpoint.torch_import import from_torch
    from tests.parity import reference

    module = reference.random_module(hidden="2x0e", l_max=1, correlation=1, num_interactions=1)
    expected = from_torch(module)
    torch.save({"model": module.state_dict(), "epoch": 3}, tmp_path / "run_epoch-3.pt")
    macejax.save(tmp_path / "like.mace", expected._replace(params=jax.tree.map(np.zeros_like, expected.params)))
    arguments = ("convert", tmp_path / "run_epoch-3.pt", tmp_path / "out.mace")
    code, _, err = run(capsys, *arguments)
    assert code == 1 and "give the configuration" in err and not (tmp_path / "out.mace").exists()
    code, _, err = run(capsys, *arguments, "--config", tmp_path / "like.mace")
    assert code == 0, err
    assert_same_model(macejax.load(tmp_path / "out.mace"), expected)


@pytest.mark.torch
def test_convert_reads_a_training_checkpoint_with_the_configuration_of_a_run(capsys, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("mace")
    from macejax.checkpoint.torch_import import from_torch
    from tests.parity import reference

    module = reference.random_module(hidden="2x0e", l_max=1, correlation=1, num_interactions=1)
    torch.save({"model": module.state_dict(), "epoch": 3}, tmp_path / "run_epoch-3.pt")
    run_yaml = tmp_path / "run.yaml"
    arguments = ("convert", tmp_path / "run_epoch-3.pt", tmp_path / "out.mace", "--config", run_yaml)
    section = {"num_channels": 2, "max_L": 0, "l_max": 1, "correlation": 1, "num_interactions": 1, "radial_mlp": [16, 16]}
    section |= {"cutoff": reference.CUTOFF, "num_bessel": 6}
    refused = {
        "no section `model`": {"run": {"name": "a"}},
        "set model.avg_num_neighbors": {"model": section},
        "another model: r_max is 4.2 here, and 5.0 there": {"model": section | {"avg_num_neighbors": 6.5, "cutoff": 5.0}},
        "unknown key 'correlations'": {"model": section | {"correlations": 1}},
        "it has 1 heads, where model.heads names 2": {"model": section | {"avg_num_neighbors": 6.5, "heads": ["a", "b"]}},
        "of the elements [8, 13, 22], where model.elements has [1, 8]": {
            "model": section | {"avg_num_neighbors": 6.5, "elements": ["H", "O"]}
        },
        "another model: hidden_irreps 'foo' are no irreps": {
            "model": {k: v for k, v in section.items() if k not in ("num_channels", "max_L")}
            | {"avg_num_neighbors": 6.5, "hidden_irreps": "foo"}
        },
        "model: correlation must be from 1 to 4, not 7": {"model": section | {"avg_num_neighbors": 6.5, "correlation": 7}},
    }
    for sentence, options in refused.items():
        run_yaml.write_text(json.dumps(options))
        code, _, err = run(capsys, *arguments)
        assert code in (1, 2) and sentence in err and not (tmp_path / "out.mace").exists()
    run_yaml.write_text(json.dumps({"data": {"train": "a.xyz"}, "model": section | {"avg_num_neighbors": 6.5}}))
    code, _, err = run(capsys, *arguments)
    assert code == 0, err
    assert_same_model(macejax.load(tmp_path / "out.mace"), from_torch(module))


def test_info_describes_a_published_model_by_its_name(capsys, monkeypatch, tmp_path, real_data):
    """A file that lies where fetched ones do stands in for the published one."""
    monkeypatch.setenv("MACEJAX_MODELS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(real_data / "models" / "water" / "one_layer.model", tmp_path / FOUNDATIONS["medium-omat-0"].file)
    code, out, err = run(capsys, "info", "medium_omat_0")
    facts: dict[str, Any] = dict(line.split("  ", 1) for line in out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert code == 0 and "Licence: Academic Software License" in err
    assert facts["elements"] == "H (-6.89432 eV), O (-3.44716 eV)" and facts["cutoff"] == "5 Angstrom, 8 Bessel functions"
    size = sum(x.size for x in jax.tree.leaves(macejax.load("medium-omat-0").params))
    assert facts["model"] == f"ScaleShiftMACE, {size} parameters, float32"
    assert facts["licence"].startswith("Academic Software License") and facts["source"] == "mace-omat-0-medium.model"
    code, out, err = run(capsys, "info", "medium-omat-0", "--json")
    assert code == 0 and json.loads(out)["parameters"] == size and not err


def test_info_names_the_heads_of_a_model(capsys):
    code, out, _ = run(capsys, "info", TWO_HEADS)
    assert code == 0 and "elements, PBE" in out and "elements, r2SCAN" in out and "scale 1.3 eV, shift 0.2 eV" in out


@pytest.mark.parametrize("name", ["mace_polar", "MACE-POLAR-1-L", "maceles"])
def test_info_tells_that_long_range_models_are_not_here(capsys, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "info", name)
    assert code == 1 and f"no file {name}" in err and "long-range electrostatics" in err and err.count("\n") == 1
