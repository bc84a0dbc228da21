"""What must come of each flag of mace_run_train."""

from __future__ import annotations

import random
import shlex

import pytest

from macejax.config.migrate import FLAGS, migrate, read_command
from macejax.config.migrate.model_rules import BLOCKS
from macejax.model.mace import INTERACTIONS
from macejax.model.model import build
from tests.migrate.commands import MINIMAL, candidates, default, loaded, migrated


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("--swa --max_num_epochs 3", {"stage_two.enabled": True, "stage_two.start": 1, "run.epochs": 3}),
        ("--swa", {"stage_two.enabled": True}),
        ("--start_swa 7", {"stage_two.enabled": True, "stage_two.start": 7}),
        ("--swa --start_swa 9 --max_num_epochs 9", {"run.epochs": 9}),
        ("--swa_lr 1 --swa_energy_weight 3", {}),
        ("--ema", {"run.ema_decay": 0.99}),
        ("--ema_decay 0.9", {}),
        ("--optimizer schedulefree", {"optimizer.kind": "schedulefree", "optimizer.schedule.kind": "constant", "optimizer.beta2": 0.98}),
        ("--optimizer adamw --beta 0.8 --beta1_schedulefree 0.7", {"optimizer.kind": "amsgradw", "optimizer.beta1": 0.8}),
        ("--scheduler ExponentialLR --lr_factor 0.1", {"optimizer.schedule.kind": "exponential"}),
        ("--eval_interval 5 --patience 7", {"run.validate_every": 5, "optimizer.schedule.patience": 10, "run.patience": 7}),
        ("--clip_grad None", {"optimizer.clip_norm": None}),
        ("--model MACE --interaction_first RealAgnosticResidualInteractionBlock", {"model.interaction_first": "RealAgnostic"}),
        ("--model ScaleShiftMACE", {"model.model": "ScaleShiftMACE"}),
        ("--interaction_first RealAgnosticDensityInteractionBlock", {"model.interaction_first": "RealAgnosticDensity"}),
        ("--hidden_irreps 8x0e --num_channels 4", {"model.hidden_irreps": "8x0e"}),
        ("--hidden_irreps 8x0e --num_channels 4 --max_L 1", {"model.num_channels": 4, "model.max_L": 1}),
        ("--max_L 2", {"model.max_L": 2}),
        ("--avg_num_neighbors 7", {}),
        ("--avg_num_neighbors 7 --compute_avg_num_neighbors False", {"model.avg_num_neighbors": 7.0}),
        ("--mean -3 --model ScaleShiftMACE", {"model.model": "ScaleShiftMACE"}),
        ("--mean -3 --std 2 --model ScaleShiftMACE", {"model.model": "ScaleShiftMACE", "model.shift": -3.0, "model.scale": 2.0}),
        ("--mean -3 --std 2", {"model.scale": 2.0}),
        (
            "--mean -3 --scaling no_scaling --model ScaleShiftMACE",
            {"model.model": "ScaleShiftMACE", "model.scaling": "no_scaling", "model.shift": -3.0},
        ),
        ("--std 2 --scaling no_scaling", {"model.scaling": "no_scaling"}),
        ("--std 2 --scaling std_scaling", {"model.scale": 2.0}),
        ("--valid_file v.xyz --valid_fraction 0.3", {"data.valid": ["v.xyz"]}),
        ("--huber_delta 0.1", {}),
        ("--huber_delta 0.1 --loss universal", {"loss.kind": "universal", "loss.huber_delta": 0.1}),
        ("--loss l1l2energyforces --stress_weight 3", {"loss.kind": "l1l2"}),
        ("--loss ef --forces_weight 3", {"loss.kind": "ef"}),
        ("--loss stress --stress_weight 3 --virials_weight 4", {"loss.kind": "stress", "loss.stress_weight": 3.0}),
        ("--use_reduced_cg yes", {"model.contraction_basis": "reduced"}),
        ("--gate None --distance_transform Agnesi", {"model.gate": "none", "model.distance_transform": "Agnesi"}),
        ("--stress_key None --atomic_numbers [1,8]", {"data.keys.stress": None, "model.elements": [1, 8]}),
        ("--E0s IsolatedAtom", {"data.e0s": "isolated"}),
        ('--config_type_weights \'{"Default": 1.0, "bulk": 3}\'', {"data.config_type_weights": {"bulk": 3.0}}),
        ("--freeze 0 --lora_rank 3 --les_arguments x.yaml", {}),
        ("--freeze -1", {}),
        ("--freeze 2", {"optimizer.rate_factors.embedding": 0.0}),
        ("--freeze 5", {"optimizer.rate_factors.embedding": 0.0, "optimizer.rate_factors.interactions": 0.0}),
        (
            '--freeze 6 --lr_params_factors \'{"readouts_lr_factor": 2, "products_lr_factor": 3, "others": 4}\'',
            {f"optimizer.rate_factors.{part}": 0.0 for part in ("embedding", "interactions", "products")}
            | {"optimizer.rate_factors.readouts": 2.0},
        ),
        ("--lr_params_factors '{\"embedding_lr_factor\": 0.0}'", {"optimizer.rate_factors.embedding": 0.0}),
        ("--work_dir there", {"run.directory": "there"}),
        (
            "--model AtomicDielectricMACE --loss dipole_polar --polarizability_weight 3 --energy_weight 2 --E0s average "
            "--MLP_irreps '8x0e+4x1o+4x2e' --interaction_first RealAgnosticResidualInteractionBlock",
            {
                "model.model": "AtomicDielectricMACE",
                "model.interaction_first": "RealAgnostic",
                "loss.kind": "dipole_polar",
                "loss.polarizability_weight": 3.0,
                "model.readout_irreps": "8x0e + 4x1o + 4x2e",
            },
        ),
        (
            "--model AtomicDipolesMACE --loss dipole --MLP_irreps 16x1o --dipole_key mu",
            {
                "model.model": "AtomicDipolesMACE",
                "loss.kind": "dipole",
                "model.readout_irreps": "16x1o",
                "data.keys.dipole": "mu",
            },
        ),
        (
            "--model EnergyDipolesMACE --loss energy_forces_dipole --MLP_irreps '8x0e+8x1o' --radial_MLP '[32, 32]' --radial_type gaussian",
            {"model.model": "EnergyDipolesMACE", "loss.kind": "energy_forces_dipole", "model.readout_irreps": "8x0e + 8x1o"},
        ),
        (
            "--model MACE --interaction_first RealAgnosticResidualNonLinearInteractionBlock",
            {"model.interaction_first": "RealAgnostic"},
        ),
        (
            "--foundation_model a.model --foundation_head b --E0s foundation --hidden_irreps 8x0e --model ScaleShiftMACE",
            {"start.model": "a.model", "start.head": "b", "data.e0s": "foundation"},
        ),
        ("--foundation_head b --pt_train_file c.xyz", {}),
        ("--lr_fac 0.3", {"optimizer.schedule.factor": 0.3}),  # argparse takes beginnings
    ],
)
def test_options(command, options, tmp_path):
    migration = migrated(f"{MINIMAL} {command}")
    assert not migration.refused and loaded(migration, tmp_path)
    written = {name: value for name, value in migration.options.items() if name not in ("run.name", "data.train")}
    written = {name: value for name, value in written.items() if name in options or value != default(name)}
    assert written == options


@pytest.mark.parametrize(
    "command",
    [
        "--model PolarMACE",
        "--model MACELES",
        "--hidden_irreps '8x0e + 4x1o'",
        "--hidden_irreps '8x0e + 8x4e'",
        "--max_L 4",
        "--edge_irreps '8x0e + 8x1o' --use_so3 True",
        "--edge_irreps '8x0e + 8x1e' --hidden_irreps '8x0e + 8x1o'",
        "--MLP_irreps 16x0o",
        "--lbfgs",
        "--lora True",
        "--freeze 7",
        "--lr_params_factors '{\"readouts_lr_factor\": 0.0}' --freeze 6",
        "--ema --optimizer schedulefree",
        "--scheduler CosineAnnealingLR",
        "--start_swa 0",
        "--correlation 5",
        "--num_cutoff_basis 2",
        "--ema --ema_decay 1.5",
        "--clip_grad 0",
        "--E0s foundation",
        "--test_dir tests",
        "--train_file a.h5",
        "--heads \"{'a': {'train_file': 'a.xyz'}, 'b': {'train_file': 'b.xyz'}}\"",
        "--multiheads_finetuning True --foundation_model medium",
        "--multiheads_finetuning True --foundation_model a.model --pt_train_file b.xyz",
        "--foundation_model_elements True --foundation_model a.model",
        "--foundation_model_readout --foundation_model a.model",
        "--foundation_model_kwargs '{\"a\": 1}' --foundation_model a.model",
    ],
)
def test_what_macejax_cannot_do(command, tmp_path):
    migration = migrated(f"{MINIMAL} {command}")
    assert len(migration.refused) == 1 and migration.refused[0].startswith(f"--{shlex.split(command)[0][2:]}")
    assert loaded(migration, tmp_path)


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--apply_cutoff False", {"model.apply_cutoff": False}),
        ("--radial_type gaussian", {"model.radial_basis": "gaussian"}),
        ("--edge_irreps '8x0e + 8x1o + 8x2e'", {"model.edge_irreps": "8x0e + 8x1o + 8x2e"}),
        ("--edge_irreps 8x0e --use_edge_irreps_first True", {"model.edge_irreps": "8x0e", "model.edge_irreps_first_scalar": True}),
        (
            "--edge_irreps '4x0e + 4x1o' --hidden_irreps 8x0e --num_channels 8 --max_L 1",
            {"model.edge_irreps": "4x0e + 4x1o", "model.num_channels": 8, "model.max_L": 1},
        ),
        ("--use_edge_irreps_first True", {}),
        ("--use_agnostic_product True", {"model.agnostic_product": True}),
        ("--use_so3 True", {"model.so3": True}),
        ("--use_last_readout_only True", {"model.last_readout_only": True}),
        ("--use_embedding_readout True", {}),
        ("--hidden_irreps '8x0e + 8x1e'", {"model.hidden_irreps": "8x0e + 8x1e"}),
    ],
)
def test_switches_of_the_model(flags, options):
    migration = migrated(f"{MINIMAL} {flags}")
    assert not migration.refused and {key: value for key, value in migration.options.items() if key.startswith("model.")} == options
    assert options or "without effect" in " ".join(migration.notes)


def test_blocks():
    """Every block that both programs have is translated."""
    theirs = {block.removesuffix("InteractionBlock") for block in (*candidates("interaction"), FLAGS["interaction"].default)}
    assert set(BLOCKS) == theirs & set(INTERACTIONS)


def test_inputs_become_a_list():
    charge = "'total_charge': {'type': 'categorical', 'per': 'graph', 'emb_dim': 8, 'num_classes': 5, 'offset': 2, 'in_dim': 1}"
    field = "'field': {'type': 'continuous', 'per': 'atom', 'emb_dim': 4, 'in_dim': 3}"
    options = migrated(f'{MINIMAL} --embedding_specs "{{{charge}, {field}}}" --use_embedding_readout True').options
    assert options["model.joint_embedding"] == [
        {"name": "total_charge", "type": "categorical", "per": "graph", "emb_dim": 8, "num_classes": 5, "offset": 2},
        {"name": "field", "type": "continuous", "per": "atom", "emb_dim": 4, "in_dim": 3},
    ]
    assert options["data.keys.inputs"] == ["elec_temp", "field"]


def test_a_default_that_is_given_is_not_said_to_hold():
    """macejax draws no replay data, as many as may be asked for."""
    migration = migrated(f"{MINIMAL} --foundation_model a.model --num_samples_pt 10000")
    assert any("macejax draws and labels no replay data" in sentence for sentence in migration.notes)


def test_factors_that_mace_run_train_takes_otherwise_are_told():
    zero = migrated(f"{MINIMAL} --lr_params_factors '{{\"products_lr_factor\": 0}}'")
    assert any("norm by which others are clipped" in sentence for sentence in zero.notes)
    embedded = '--embedding_specs \'{"total_charge": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4}}\''
    both = migrated(
        f'{MINIMAL} {embedded} --use_embedding_readout True --lr_params_factors \'{{"readouts_lr_factor": 2, "embedding_lr_factor": 2}}\''
    )
    assert sum("is meant too" in sentence or "are meant too" in sentence for sentence in both.notes) == 2
    late = migrated(f"{MINIMAL} --swa --lr_params_factors '{{\"products_lr_factor\": 2}}'")
    assert any("second stage too" in sentence for sentence in late.notes)


def test_every_flag_alone_acts_or_is_told():
    """Any flag at any value but its default changes the configuration, is refused, or is explained."""
    samples = {"name": "b", "train_file": "b.xyz", "hidden_irreps": "8x0e", "atomic_numbers": "[1]", "E0s": "average", "radial_MLP": "[8]"}
    samples |= {
        "lr_params_factors": '{"products_lr_factor": 2}',
        "config_type_weights": '{"a": 2}',
        "embedding_specs": "{}",
        "edge_irreps": "8x0e",
    }
    samples |= {"scheduler": "ExponentialLR", "heads": "{'a': {}, 'b': {}}", "ema_decay": "0.9", "MLP_irreps": "8x0e"}
    plain = migrated(MINIMAL)
    for name, flag in FLAGS.items():
        if name == "statistics_file":  # has a test of its own
            continue
        values = [samples[name]] if name in samples else candidates(name)
        for value in values:
            migration = migrated(f"{MINIMAL} --{name} {shlex.quote(value)}" if value else f"{MINIMAL} --{name}")
            assert migration.options != plain.options or migration.refused or migration.notes, (name, value)
            assert flag.reader.arity == "none" or value


def test_many_combinations_load(tmp_path):
    """Flags drawn at random: what is written loads, its architecture can be built, and no two flags write one option."""
    generator = random.Random(0)
    values = {name: candidates(name) for name in FLAGS if name not in ("name", "train_file", "statistics_file")}
    values |= {
        "hidden_irreps": ["8x0e", "8x0e + 8x1o", "4x0e+4x1o+4x2e", "8x0o"],
        "E0s": ["average", "{1: -13.6}", "foundation"],
        "foundation_model": ["a.model", "small"],
        "max_num_epochs": ["1", "3", "500"],
        "start_swa": ["1", "2", "600"],
        "max_ell": ["2", "3"],
        "max_L": ["0", "1", "3"],
        "num_cutoff_basis": ["3", "6"],
        "r_max": ["4.5", "6"],
        "atomic_numbers": ["[1, 8]"],
        "radial_MLP": ["[8, 8]"],
        "MLP_irreps": ["8x0e"],
        "lr_params_factors": ["{}"],
        "config_type_weights": ["{'a': 2}"],
        "heads": ["{'Default': {'train_file': 'b.xyz', 'energy_key': 'E'}}"],
        "embedding_specs": ["{}"],
        "edge_irreps": ["4x0e", "4x0e + 4x1o", "text"],
    }
    built = 0
    for trial in range(300):
        chosen = generator.sample(sorted(values), 12)
        words = ["--name", f"run{trial}", "--train_file", "a.xyz"]
        for name in chosen:
            value = generator.choice(values[name])
            words += [f"--{name}={value}"] if value else [f"--{name}"]
        migration = migrate(read_command(words))
        config = loaded(migration, tmp_path)
        assert config.run.name == f"run{trial}"
        if trial % 10 == 0:
            build(config.model.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=1.0, scale=1.0, shift=0.0))
            built += 1
    assert built == 30


def test_statistics_file(tmp_path):
    file = tmp_path / "statistics.json"
    file.write_text(
        '{"atomic_energies": "{1: -13.6, 8: -2042.0}", "avg_num_neighbors": 9.5, "mean": 1, "std": 2, "atomic_numbers": "[1, 8]"}'
    )
    config = loaded(migrated(f"{MINIMAL} --statistics_file {file} --E0s average"), tmp_path)
    assert (config.model.elements, config.model.avg_num_neighbors, config.data.e0s) == ((1, 8), 9.5, {"H": -13.6, "O": -2042.0})
    assert (config.model.scale, config.model.shift) == ("auto", "auto")
