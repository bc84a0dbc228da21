"""`macejax migrate`: commands of mace_run_train as people write them, and what must come of each flag."""

from __future__ import annotations

import random
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from macejax.cli.main import main
from macejax.config import ConfigError, TrainConfig, load_config
from macejax.config.migrate import FLAGS, Migration, migrate, read_command, read_source, render
from macejax.config.migrate.flags import Arguments, Refusal, Set, if_known
from macejax.config.migrate.model_rules import BLOCKS
from macejax.model.mace import INTERACTIONS, build

REPOSITORY = Path(__file__).resolve().parents[1]
MINIMAL = "--name a --train_file a.xyz"
README = """#!/bin/bash
#SBATCH --job-name="it's mace"
module load cuda; export OMP_NUM_THREADS=$SLURM_CPUS
which mace_run_train
srun python ./mace/scripts/run_train.py \\
    --name="MACE_model" \\
    --train_file="train.xyz" \\
    --valid_fraction=0.05 --test_file="test.xyz" \\
    --config_type_weights='{"Default":1.0}' \\
    --E0s='{1:-13.663181292231226, 6:-1029.2809654211628,
            7:-1484.1187695035828, 8:-2042.0330099956639}' \\
    --model="MACE" --hidden_irreps='128x0e + 128x1o' --r_max=5.0 --batch_size=10 \\
    --max_num_epochs=1500 --stage_two --start_stage_two=1200 \\
    --ema --ema_decay=0.99 --amsgrad --restart_latest --device=cuda \\
    > "log of $SLURM_JOB_ID" 2>&1 & # in the background
wait
"""
MP0 = (
    "--name MACE_MP --train_file mptrj_train.xyz --valid_file mptrj_valid.xyz --model ScaleShiftMACE --num_interactions 2 "
    "--num_channels 128 --max_L 1 --correlation 3 --max_ell 3 --r_max 6.0 --num_radial_basis 10 --num_cutoff_basis 5 --MLP_irreps "
    "16x0e --gate silu --interaction_first RealAgnosticResidualInteractionBlock --interaction RealAgnosticResidualInteractionBlock "
    "--E0s average --scaling rms_forces_scaling --loss universal --energy_weight 1 --forces_weight 10 --stress_weight 100 "
    "--compute_stress True --energy_key energy --forces_key forces --stress_key stress --lr 0.005 --weight_decay 1e-8 --ema "
    "--ema_decay 0.995 --clip_grad 100 --scheduler_patience 5 --patience 50 --batch_size 16 --valid_batch_size 32 --max_num_epochs "
    "200 --default_dtype float64 --seed 3 --error_table PerAtomMAE --num_workers 16 --distributed --device cuda --save_cpu --wandb "
    "--wandb_project mp --wandb_name mp0"
)
OFF23 = (
    "--name OFF23 --train_file spice.xyz --valid_fraction 0.05 --test_file test.xyz --model MACE --num_channels 96 --max_L 0 "
    "--r_max 4.5 --interaction RealAgnosticResidualInteractionBlock --E0s isolated.json --energy_key REF_energy --forces_key "
    "REF_forces --loss weighted --energy_weight 40 --forces_weight 1000 --swa --start_swa 115 --swa_energy_weight 1000 "
    "--swa_forces_weight 100 --swa_lr 0.00025 --lr 0.01 --batch_size 128 --max_num_epochs 190 --ema --ema_decay 0.99 "
    "--weight_decay 5e-10 --scheduler_patience 20 --default_dtype float64"
)
FINE_TUNING = (
    "--name MACE --foundation_model small --multiheads_finetuning False --train_file train.xyz --valid_fraction 0.05 --test_file test.xyz "
    "--energy_weight 1.0 --forces_weight 1.0 --E0s average --lr 0.01 --scaling rms_forces_scaling --batch_size 2 --max_num_epochs 6 --ema "
    "--ema_decay 0.99 --amsgrad --default_dtype float32 --device cuda --seed 3"
)


def migrated(command: str) -> Migration:
    return migrate(read_command(shlex.split(command)))


def loaded(migration: Migration, folder: Path) -> TrainConfig:
    """Through the file, as a user does it."""
    (folder / "migrated.yaml").write_text(render(migration))
    return load_config(folder / "migrated.yaml")


def note(migration: Migration, flag: str) -> str:
    """What is said of a flag, '' where nothing is."""
    return " ".join(
        sentence for sentence in (*migration.refused, *migration.notes) if f"--{flag}" in sentence.partition(": ")[0].split(", ")
    )


def test_the_command_of_the_readme(tmp_path):
    (tmp_path / "job.sh").write_text(README)
    migration = migrate(read_source(tmp_path / "job.sh"))
    config = loaded(migration, tmp_path)
    assert (config.run.name, config.run.epochs, config.run.ema_decay) == ("MACE_model", 1500, 0.99)
    assert (config.data.train, config.data.test, config.data.valid_fraction) == (("train.xyz",), ("test.xyz",), 0.05)
    assert config.data.e0s == {"H": -13.663181292231226, "C": -1029.2809654211628, "N": -1484.1187695035828, "O": -2042.0330099956639}
    assert config.stage_two.enabled and config.stage_two.start == 1200
    defaults = load_config(None, {"data.train": "train.xyz"})
    model = defaults.model.model_copy(update={"hidden_irreps": "128x0e + 128x1o"})
    assert (config.model, config.loss, config.optimizer) == (model, defaults.loss, defaults.optimizer)
    assert not migration.refused and "optimizer.kind" in note(migration, "amsgrad") and "--resume" in note(migration, "restart_latest")


def test_mp0(tmp_path):
    migration = migrated(MP0)
    config = loaded(migration, tmp_path)
    model = config.model.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=2.0, scale=2.0, shift=3.0)
    assert (model.interaction_first, model.shift, model.cutoff, model.num_bessel) == ("RealAgnosticResidual", 3.0, 6.0, 10)
    assert model.hidden_irreps == "128x0e + 128x1o"
    loss = config.loss
    assert (loss.kind, loss.energy_weight, loss.forces_weight, loss.stress_weight) == ("universal", 1, 10, 100)
    assert (config.optimizer.clip_norm, config.optimizer.weight_decay, config.optimizer.schedule.patience) == (100, 1e-8, 5)
    assert (config.run.patience, config.run.ema_decay, config.data.keys.stress) == (50, 0.995, "stress")
    assert not migration.refused
    for flag, part in {
        "patience": "trains on",
        "distributed": "all devices together",
        "loss": "config_weight",
        "wandb_name": "metrics.jsonl",
        "batch_size": "drops",
        "valid_batch_size": "valid_batch_atoms",
        "forces_key": "constraint",
        "stress_key": "null leaves",
        "valid_file": "IsolatedAtom",
        "compute_stress": "without effect",
    }.items():
        assert part in note(migration, flag), flag


def test_off23(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "isolated.json").write_text('{"1": -13.57, "6": -1029.9}')
    migration = migrated(OFF23)
    config = loaded(migration, tmp_path)
    assert config.data.e0s == {"H": -13.57, "C": -1029.9}
    assert config.model.resolve(elements=(1,), e0s=(0.0,), avg_num_neighbors=2.0, scale=2.0, shift=3.0).hidden_irreps == "96x0e"
    stage = config.stage_two
    assert (stage.enabled, stage.start, stage.learning_rate, stage.energy_weight, stage.forces_weight) == (True, 115, 0.00025, 1000, 100)
    assert (config.loss.energy_weight, config.loss.forces_weight) == (40, 1000) and "never tested" in note(migration, "swa (--stage_two)")
    with pytest.raises(ConfigError, match="--E0s: the file absent.json cannot be read"):
        migrated(OFF23.replace("isolated.json", "absent.json"))


def test_fine_tuning_is_refused(tmp_path):
    migration = migrated(FINE_TUNING)
    assert [sentence.partition(":")[0] for sentence in migration.refused] == ["--foundation_model"]
    assert "only acts together" in note(migration, "multiheads_finetuning")
    config = loaded(migration, tmp_path)
    assert (config.data.e0s, config.loss.forces_weight, config.run.dtype) == ("average", 1.0, "float32")
    assert "# LEFT OUT --foundation_model" in (tmp_path / "migrated.yaml").read_text()


def test_the_ethanol_recipe(tmp_path):
    """`RECIPE` of the experiment and its configuration say the same."""
    folder = REPOSITORY / "experiments" / "rmd17_ethanol"
    lines = (folder / "run.py").read_text().split("RECIPE = (\n")[1].split("\n).split()")[0]
    recipe = "".join(line.strip().strip('"') for line in lines.splitlines())
    files = "--train_file rmd17_ethanol_train_01.xyz --test_file rmd17_ethanol_test_01.xyz"
    migration = migrated(f"mace_run_train {recipe} {files} --default_dtype float32 --max_num_epochs 20")
    ours, theirs = load_config(folder / "config.yaml"), loaded(migration, tmp_path)
    assert theirs.run.name == "ref" and theirs.model_copy(update={"run": ours.run}) == ours
    assert theirs.run.model_copy(update={"name": ours.run.name}) == ours.run
    assert "both weights are 1" in note(migration, "forces_weight")


def test_nothing_given_is_nothing_written():
    migration = migrated(MINIMAL)
    assert migration == Migration({"run.name": "a", "data.train": ["a.xyz"]}, (), ())


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
        ("--std 2 --scaling no_scaling", {"model.scaling": "no_scaling"}),
        ("--loss l1l2energyforces --stress_weight 3", {"loss.kind": "l1l2"}),
        ("--loss ef --forces_weight 3", {"loss.kind": "ef"}),
        ("--loss stress --stress_weight 3 --virials_weight 4", {"loss.kind": "stress", "loss.stress_weight": 3.0}),
        ("--use_reduced_cg yes", {"model.contraction_basis": "reduced"}),
        ("--gate None --distance_transform Agnesi", {"model.gate": "none", "model.distance_transform": "Agnesi"}),
        ("--stress_key None --atomic_numbers [1,8]", {"data.keys.stress": None, "model.elements": [1, 8]}),
        ("--E0s IsolatedAtom", {"data.e0s": "isolated"}),
        ('--config_type_weights \'{"Default": 1.0, "bulk": 3}\'', {"data.config_type_weights": {"bulk": 3.0}}),
        ("--freeze 0 --lora_rank 3 --les_arguments x.yaml", {}),
        ("--work_dir there", {"run.directory": "there"}),
        ("--lr_fac 0.3", {"optimizer.schedule.factor": 0.3}),  # argparse takes beginnings
    ],
)
def test_options(command, options, tmp_path):
    migration = migrated(f"{MINIMAL} {command}")
    assert not migration.refused and loaded(migration, tmp_path)
    written = {name: value for name, value in migration.options.items() if name not in ("run.name", "data.train")}
    written = {name: value for name, value in written.items() if name in options or value != default(name)}
    assert written == options


def default(option: str) -> Any:
    value: Any = load_config(None, {"data.train": "a.xyz"}).model_dump(mode="json")
    for part in option.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize(
    "command",
    [
        "--model PolarMACE",
        "--model MACELES",
        "--model EnergyDipolesMACE",
        "--loss dipole",
        "--interaction RealAgnosticAttResidualInteractionBlock",
        "--hidden_irreps '8x0e + 8x1e'",
        "--hidden_irreps '8x0e + 4x1o'",
        "--hidden_irreps '8x0e + 8x4e'",
        "--max_L 4",
        "--MLP_irreps 16x0o",
        "--lbfgs",
        "--lora True",
        "--freeze 6",
        "--lr_params_factors '{\"embedding_lr_factor\": 0.0}'",
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
        "--foundation_model medium",
    ],
)
def test_what_macejax_cannot_do(command, tmp_path):
    migration = migrated(f"{MINIMAL} {command}")
    assert len(migration.refused) == 1 and migration.refused[0].startswith(f"--{shlex.split(command)[0][2:]}")
    assert loaded(migration, tmp_path)


FUTURE = {
    "apply_cutoff": "False",
    "radial_type": "gaussian",
    "edge_irreps": "8x0e",
    "use_edge_irreps_first": "True",
    "use_agnostic_product": "True",
    "use_so3": "True",
    "use_last_readout_only": "True",
    "use_embedding_readout": "True",
}


@pytest.mark.parametrize("flag", FUTURE)
def test_options_that_may_be_there(flag):
    """Translated where the model has the option, else refused; never dropped in silence."""
    migration = migrated(f"{MINIMAL} --{flag} {FUTURE[flag]}")
    assert len(migration.refused) + len(migration.options) == 3


def test_blocks():
    """Every block that both programs have is translated."""
    theirs = {block.removesuffix("InteractionBlock") for block in (*candidates("interaction"), FLAGS["interaction"].default)}
    assert set(BLOCKS) == theirs & set(INTERACTIONS)


def test_an_option_is_translated_once_macejax_has_it():
    arguments = Arguments({"x": 3}, {"x": 1}, frozenset("x"))
    assert list(if_known("model.cutoff", "no.")("x", arguments)) == [Set("model.cutoff", 3)]
    assert list(if_known("model.soup", "no.")("x", arguments)) == [Refusal("no.")]


def test_every_flag_alone_acts_or_is_told():
    """Any flag at any value but its default changes the configuration, is refused, or is explained."""
    samples = {"name": "b", "train_file": "b.xyz", "hidden_irreps": "8x0e", "atomic_numbers": "[1]", "E0s": "average", "radial_MLP": "[8]"}
    samples |= {"lr_params_factors": '{"products_lr_factor": 2}', "config_type_weights": '{"a": 2}', "embedding_specs": "{}"}
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


def candidates(name: str) -> list[str]:
    """Values that the flag reads, other than its default."""
    reader = FLAGS[name].reader
    if reader.arity == "none":
        return [""]
    try:
        reader.parse("\n")
        return ["text"]
    except ValueError as error:
        text = str(error)
    if text.startswith("must be one of "):
        return [value for value in text.removeprefix("must be one of ").split(", ") if value != FLAGS[name].default]
    return {"must be True or False": [str(not FLAGS[name].default)], "must be an integer": ["2"], "must be a number": ["0.5"]}[text]


def test_many_combinations_load(tmp_path):
    """Flags drawn at random: what is written loads, its architecture can be built, and no two flags write one option."""
    generator = random.Random(0)
    values = {name: candidates(name) for name in FLAGS if name not in ("name", "train_file", "statistics_file")}
    values |= {
        "hidden_irreps": ["8x0e", "8x0e + 8x1o", "4x0e+4x1o+4x2e", "8x0o"],
        "E0s": ["average", "{1: -13.6}", "foundation"],
        "max_num_epochs": ["1", "3", "500"],
        "start_swa": ["1", "2", "600"],
        "max_ell": ["2", "3"],
        "max_L": ["0", "1", "3"],
        "num_cutoff_basis": ["3", "6"],
        "atomic_numbers": ["[1, 8]"],
        "radial_MLP": ["[8, 8]"],
        "MLP_irreps": ["8x0e"],
        "lr_params_factors": ["{}"],
        "config_type_weights": ["{'a': 2}"],
        "heads": ["{'Default': {'train_file': 'b.xyz', 'energy_key': 'E'}}"],
        "embedding_specs": ["{}"],
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


def test_yaml_of_mace_run_train(tmp_path):
    (tmp_path / "mace.yaml").write_text(
        "name: water\ntrain_file: [a.xyz, b.xyz]\nE0s: {1: -13.6, 8: -2042.0}\nema: true\nswa: false\nlr: 1e-3\nmax_L: null\n"
        'radial_MLP: "[32, 32]"\nstage_two_lr: 0.1\n'
    )
    config = loaded(migrate(read_source(tmp_path / "mace.yaml")), tmp_path)
    assert (config.data.train, config.data.e0s) == (("a.xyz", "b.xyz"), {"H": -13.6, "O": -2042.0})
    assert (config.run.ema_decay, config.stage_two.enabled, config.optimizer.learning_rate) == (0.99, False, 1e-3)
    assert config.model.radial_mlp == (32, 32)
    (tmp_path / "job.sh").write_text("python -m mace.cli.run_train --lr=2e-3 --config mace.yaml --name other")
    other = loaded(migrate(read_source(tmp_path / "job.sh")), tmp_path)
    assert (other.run.name, other.optimizer.learning_rate, other.run.ema_decay) == ("other", 2e-3, 0.99)


def test_one_head_is_flags(tmp_path):
    (tmp_path / "mace.yaml").write_text(
        "name: one\nenergy_key: general\nforces_key: general\ntest_file: ignored.xyz\n"
        "heads:\n  dft:\n    train_file: a.xyz\n    E0s: average\n    energy_key: mine\n    arrays_keys: {forces: closest}\n"
    )
    migration = migrate(read_source(tmp_path / "mace.yaml"))
    config = loaded(migration, tmp_path)
    assert (config.data.keys.energy, config.data.keys.forces, config.data.train) == ("mine", "closest", ("a.xyz",))
    assert config.data.test is None and config.data.e0s == "average" and not migration.refused


def test_statistics_file(tmp_path):
    file = tmp_path / "statistics.json"
    file.write_text(
        '{"atomic_energies": "{1: -13.6, 8: -2042.0}", "avg_num_neighbors": 9.5, "mean": 1, "std": 2, "atomic_numbers": "[1, 8]"}'
    )
    config = loaded(migrated(f"{MINIMAL} --statistics_file {file} --E0s average"), tmp_path)
    assert (config.model.elements, config.model.avg_num_neighbors, config.data.e0s) == ((1, 8), 9.5, {"H": -13.6, "O": -2042.0})
    assert (config.model.scale, config.model.shift) == ("auto", "auto")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("python train.py --lr 3", "holds no call of mace_run_train"),
        ("mace_run_train --name a\nmace_run_train --name b", "2 calls"),
        ("mace_run_train --name=$NAME", "--name=$NAME"),
        ('mace_run_train --name "a`date`"', "a$date$"),
        ("mace_run_train --name 'a", "not closed"),
        ("mace_run_train --nam a --train_file a.xyz --lr fast", "--lr must be a number, not 'fast'"),
        ("mace_run_train --train_fil a.xyz --mode x", "--model or --model_dir"),
        ("mace_run_train --trian_file a.xyz", "did you mean --train_file?"),
        ("mace_run_train --ema=True", "takes no value"),
        ("mace_run_train --lr --ema", "--lr needs a value"),
        ("mace_run_train --name a b", "'b' belongs to no flag"),
        ("mace_run_train --name a", "--train_file is missing"),
        ("mace_run_train --config absent.yaml", "absent.yaml"),
        (f"mace_run_train {MINIMAL} --E0s '{{1: x}}'", "--E0s: "),
        (f"mace_run_train {MINIMAL} --E0s '{{Xx: 1}}'", "--E0s: "),
        (f"mace_run_train {MINIMAL} --radial_MLP 64", "--radial_MLP: "),
        (f"mace_run_train {MINIMAL} --loss mse", "must be one of ef, weighted"),
    ],
)
def test_errors_are_a_sentence(script, sentence, tmp_path):
    (tmp_path / "job.sh").write_text(script)
    with pytest.raises(ConfigError) as error:
        migrate(read_source(tmp_path / "job.sh"))
    assert sentence in str(error.value)


def test_the_shell_is_read_as_a_shell_does(tmp_path):
    (tmp_path / "job.sh").write_text(
        '# mace_run_train --name no\ncd "$HOME" && OMP_NUM_THREADS=2 torchrun --nproc 2 $(which mace_run_train) --name=\'a\'"b"\\\n_c '
        '--E0s="{1: \\\n -1.0}" --train_file a#b.xyz --seed 3 2>err.txt <in.txt | tee --lr 5 #\'\n'
    )
    arguments = read_source(tmp_path / "job.sh")
    assert {name: arguments.values[name] for name in arguments.given} == {
        "name": "ab_c",
        "E0s": "{1:  -1.0}",
        "train_file": "a#b.xyz",
        "seed": 3,
    }


def test_command(tmp_path, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["migrate", *arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    words = ("--", "mace_run_train", *MINIMAL.split(), "--plot", "False", "--lbfgs")
    code, out, err = run(*words)
    assert code == 2 and not out and "--lbfgs: macejax has no L-BFGS." in err
    code, out, err = run("--partial", *words)
    assert code == 0 and "left out --lbfgs" in err and "--plot: " in err
    assert (
        "# LEFT OUT --lbfgs" in out and "# --plot: " in out and yaml.safe_load(out) == {"run": {"name": "a"}, "data": {"train": ["a.xyz"]}}
    )
    file = tmp_path / "run.yaml"
    code, out, err = run("-o", str(file), *words[:-1])
    assert code == 0 and not out and load_config(file).run.name == "a" and "# --plot: " in file.read_text()
    code, _, err = run("-o", str(file), *words[:-1])
    assert code == 2 and "--overwrite" in err
