"""`macejax config FILE`: what it prints can be trained."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from macejax.config import ModelSection
from macejax.model.interaction import RealAgnosticResidual
from macejax.model.mace import INTERACTIONS
from tests.cli.test_commands import run


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("hidden_irreps=4x0e + 2x1o", "hidden_irreps '4x0e + 2x1o' must have every irrep once, all with the same number"),
        ('hidden_irreps="0x0e"', "all with the same number"),
        ("hidden_irreps=4x0e + 4x3o", "reach beyond l_max 2: raise l_max"),
        ("edge_irreps=foo", "edge_irreps 'foo' are no irreps"),
        ("readout_irreps=foo", "readout_irreps 'foo' are no irreps: write them as 16x0e"),
        ("readout_irreps=16x1o", "readout_irreps '16x1o' must be scalars"),
        ("interaction=Foo", "no interaction block is called 'Foo': choose from RealAgnostic,"),
        ("interaction_first=Foo", "no interaction block is called 'Foo'"),
        ("radial_mlp=[0]", "model.radial_mlp.0: Input should be greater than or equal to 1 (got 0)"),
        ("radial_mlp=[8, -3]", "model.radial_mlp.1: Input should be greater than or equal to 1 (got -3)"),
        ("elements=[H, C, O, H]", "model.elements: H is named twice"),
        ("elements=[C, 6]", "model.elements: C is named twice"),
        ("heads=[PBE, PBE]", "model.heads: heads must have different names"),
        ('heads=["PBE,r2SCAN"]', "a head cannot be called 'PBE,r2SCAN'"),
        ('heads=[""]', "a head cannot be called ''"),
        ("heads=[]", "there must be one head at least"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused(capsys, tmp_path, option, sentence):
    (tmp_path / "run.yaml").write_text("data: {train: a.xyz}\nmodel: {l_max: 2}")
    code, out, err = run(capsys, "config", tmp_path / "run.yaml", "--set", f"model.{option}")
    assert code == 2 and sentence in err and err.count("\n") == 1 and not out


def test_a_head_that_the_data_call_otherwise_is_refused_in_a_sentence():
    """Which no other error is: a command prints the traceback of pydantic's."""
    with pytest.raises(ValueError, match="a head cannot be called 'a,b'") as refused:
        ModelSection().resolve(heads=("a,b",), elements=(1,), e0s=(0.0,), avg_num_neighbors=1.0, scale=1.0, shift=0.0)
    assert not isinstance(refused.value, ValidationError)


def test_an_architecture_that_can_be_is_printed(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(INTERACTIONS, "Own", RealAgnosticResidual)
    (tmp_path / "run.yaml").write_text("data: {train: a.xyz}\nmodel: {interaction: Own, radial_mlp: [], heads: [PBE, r2SCAN]}")
    code, out, _ = run(capsys, "config", tmp_path / "run.yaml")
    assert code == 0 and "interaction: Own" in out and "radial_mlp: []" in out
