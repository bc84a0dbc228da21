"""`macejax migrate` beside mace-torch: the same flags, read alike, and the same models."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("mace", reason="mace-torch is not installed")

from macejax.config import load_config
from macejax.config.migrate import FLAGS, migrate, read_command
from macejax.model.model import count_parameters
from tests.migrate.commands import FINE_TUNING, MINIMAL, MP0, OFF23

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    from mace.tools import build_default_arg_parser

    return build_default_arg_parser()


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Every option of the parser by its first spelling."""
    own = ("help", "config", "write_out_config_file_to_this_path")
    found = {action.option_strings[-1 if action.dest == "help" else 0].lstrip("-"): action for action in parser._actions}
    return {name: action for name, action in found.items() if action.dest not in own}


def test_no_flag_is_missing_or_invented(parser):
    assert set(actions(parser)) == set(FLAGS)


def test_defaults_spellings_and_choices(parser):
    for name, action in actions(parser).items():
        flag = FLAGS[name]
        default = parser.get_default(action.dest)
        if name == "plot_frequency":
            default = int(default)  # argparse parses a default that is a text
        assert flag.default == default and type(flag.default) is type(default) or (flag.default, default) == (1, 1), name
        assert {name, *flag.aliases} == {spelling.lstrip("-") for spelling in action.option_strings}, name
        arity = "none" if action.nargs == 0 else "many" if action.nargs == "+" else "one"
        assert flag.reader.arity == arity, name
        if arity == "none":
            assert flag.reader.parse("") is action.const, name
        for value in action.choices or ():
            assert flag.reader.parse(value) == value, name
        if action.choices:
            with pytest.raises(ValueError, match="must be one of"):
                flag.reader.parse("none of them")


@pytest.mark.parametrize(
    "command",
    [
        MP0,
        OFF23,
        FINE_TUNING,
        f"{MINIMAL} --stage_two --start_stage_two 7 --clip_grad None --wandb_log_hypers lr max_L --plot no --disallow_random_padding_pt",
        f"{MINIMAL} --mean -3.5 --lr_fac 0.5 --eval_interval=3 --foundation_model_readout --lr 1 --lr 2",
    ],
)
def test_commands_are_read_alike(parser, command):
    words = shlex.split(command)
    theirs, ours = vars(parser.parse_args(words)), read_command(words).values
    for name, action in actions(parser).items():
        assert ours[name] == theirs[action.dest], name


def test_yaml_is_read_alike(parser, tmp_path: Path):
    (tmp_path / "mace.yaml").write_text(
        "name: a\ntrain_file: a.xyz\nE0s: {1: -13.6}\nstage_two: true\nema: no\nlr: 1e-3\nseed: 7\nplot: false\nbatch_size: 4\n"
        "wandb_log_hypers: [lr, max_L]\nenergy_weight: 3\nfoundation_model_readout: true\nmax_L: null\n"
    )
    words = ["--config", str(tmp_path / "mace.yaml"), "--seed", "8"]
    theirs, ours = vars(parser.parse_args(words)), read_command(words).values
    for name, action in actions(parser).items():
        assert str(ours[name]) == str(theirs[action.dest]), name


@pytest.mark.parametrize(
    "flags",
    [
        "--num_channels 4 --max_L 1 --correlation 2 --max_ell 2",
        "--model ScaleShiftMACE --hidden_irreps '4x0e + 4x1o' --correlation 2 --max_ell 2 --num_radial_basis 6 --radial_MLP '[8, 12]'",
        "--model MACE --interaction_first RealAgnosticDensityInteractionBlock --num_channels 4 --max_L 0 --max_ell 1 --MLP_irreps 8x0e "
        "--interaction RealAgnosticDensityResidualInteractionBlock --num_interactions 3 --correlation 2",
        "--model MACE --interaction_first RealAgnosticResidualInteractionBlock --num_channels 4 --max_ell 1 --hidden_irreps 6x0e "
        "--correlation 1",
    ],
)
def test_the_same_model(parser, flags):
    """mace_run_train's own model and that of the migrated configuration: parameters, scale, shift, first block."""
    import torch
    from mace.tools import AtomicNumberTable, check_args
    from mace.tools.model_script_utils import configure_model

    words = [*MINIMAL.split(), *shlex.split(flags), "--mean", "-2.0", "--std", "1.5"]
    options: Any = check_args(parser.parse_args(words))[0]
    vars(options).update(compute_energy=True, compute_dipole=False)
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        theirs, _ = configure_model(options, None, np.array([[-1.0, -8.0]]), None, ["Default"], AtomicNumberTable([1, 8]))
    finally:
        torch.set_default_dtype(previous)
    migration = migrate(read_command(words))
    config = load_config(None, migration.options)
    resolved = config.model.resolve(elements=(1, 8), e0s=(-1.0, -8.0), avg_num_neighbors=1.0, scale=7.0, shift=7.0)
    assert not migration.refused
    assert count_parameters(resolved) == sum(parameter.numel() for parameter in theirs.parameters())
    assert type(theirs.interactions[0]).__name__ == f"{resolved.interaction_first}InteractionBlock"
    assert [resolved.scale, resolved.shift] == [float(theirs.scale_shift.scale), float(theirs.scale_shift.shift)]
    assert (resolved.cutoff, resolved.num_bessel) == (float(theirs.r_max), len(theirs.radial_embedding.bessel_fn.bessel_weights))
