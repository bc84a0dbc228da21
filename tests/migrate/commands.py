"""Commands of mace_run_train as people write them, and their way through a migration."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from macejax.config import TrainConfig, load_config
from macejax.config.migrate import FLAGS, Migration, migrate, read_command, render

REPOSITORY = Path(__file__).resolve().parents[2]
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


def default(option: str) -> Any:
    value: Any = load_config(None, {"data.train": "a.xyz"}).model_dump(mode="json")
    for part in option.split("."):
        value = value[part]
    return value


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
