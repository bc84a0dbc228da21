"""Every flag of mace_run_train 0.3.16: its default, how its text is read, and the rule that says what becomes of it here.

A rule is `to` (the option means the same), `note` (no counterpart, and none needed), `refuse` (macejax cannot do it), `with_flag`
(matters beside another flag only), or a function of one of the modules of rules.
"""

from __future__ import annotations

from macejax.config.migrate import fine_tuning
from macejax.config.migrate import model_rules as model
from macejax.config.migrate import part_rules as parts
from macejax.config.migrate import training_rules as training
from macejax.config.migrate.flags import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    NUMBER_OR_NONE,
    OFF,
    ON,
    TEXT,
    WORDS,
    Flag,
    Note,
    Refusal,
    choice,
    note,
    refuse,
    to,
    with_flag,
)
from macejax.config.migrate.literals import integers

FIRST_BLOCKS = tuple(f"RealAgnostic{kind}InteractionBlock" for kind in ("Residual", "", "Density", "DensityResidual", "ResidualNonLinear"))
ERROR_TABLES = (
    "PerAtomRMSE TotalRMSE PerAtomRMSEstressvirials PerAtomMAEstressvirials PerAtomMAE TotalMAE DipoleRMSE DipoleMAE DipolePolarRMSE "
    "EnergyDipoleRMSE"
).split()
LOGGED = ("num_channels max_L correlation lr swa_lr weight_decay batch_size max_num_epochs start_swa energy_weight forces_weight").split()
FOLDERS = note("all files of a run lie in <run.directory>/<run.name>.")
POLAR = note("without effect, as in mace_run_train: only PolarMACE, which macejax lacks, reads it.")
DIPOLES = note("without effect, as in mace_run_train, where --model says it.")
CHECKPOINTS = note("macejax keeps the best checkpoint and the last run.keep of them.")
LOADER = note("macejax prepares its batches by itself.")
PLOTS = note("macejax always writes report.html, with the learning curves, at the end of a run.")
WANDB = note("macejax writes metrics.jsonl and report.html into the folder of the run, and sends nothing to Weights & Biases.")
KERNELS = note("macejax has kernels of its own, which are always on.")
REPLAY = fine_tuning.only_beside(Note("without effect: macejax draws and labels no replay data."))


FLAGS: dict[str, Flag] = {
    # The run
    "name": Flag(None, TEXT, training.name),
    "seed": Flag(123, INTEGER, to("run.seed", note="the seed draws other weights, batches and validation sets than in mace_run_train.")),
    "work_dir": Flag(".", TEXT, training.work_dir),
    "log_dir": Flag(None, TEXT, FOLDERS),
    "model_dir": Flag(None, TEXT, FOLDERS),
    "checkpoints_dir": Flag(None, TEXT, FOLDERS),
    "results_dir": Flag(None, TEXT, FOLDERS),
    "downloads_dir": Flag(None, TEXT, note("macejax train downloads nothing.")),
    "device": Flag(
        "cpu",
        choice("cpu", "cuda", "mps", "xpu"),
        note("JAX takes the accelerator that it finds; JAX_PLATFORMS=cpu (or cuda) in the environment chooses."),
    ),
    "default_dtype": Flag("float64", choice("float32", "float64"), to("run.dtype")),
    "distributed": Flag(
        False,
        ON,
        note(
            "call macejax train --distributed; data.batch_size counts the structures on all devices together, and is that of "
            "one process in mace_run_train: multiply it by their number."
        ),
    ),
    "launcher": Flag("slurm", choice("slurm", "torchrun", "mpi", "none"), note("see --distributed and --coordinator of macejax train.")),
    "log_level": Flag("INFO", TEXT, note("macejax train has --quiet and --debug.")),
    "plot": Flag(True, BOOLEAN, PLOTS),
    "plot_frequency": Flag(0, INTEGER, PLOTS),
    "plot_interaction_e": Flag(False, BOOLEAN, PLOTS),
    "error_table": Flag("PerAtomRMSE", choice(*ERROR_TABLES), note("the table of macejax always has MAE and RMSE of all labels.")),
    # The model
    "model": Flag("MACE", choice("MACE", "ScaleShiftMACE", *model.DIPOLES, *model.OTHER_MODELS), model.model),
    "r_max": Flag(5.0, NUMBER, to("model.cutoff")),
    "radial_type": Flag(
        "bessel",
        choice("bessel", "gaussian", "chebyshev"),
        model.radial_type,
    ),
    "num_radial_basis": Flag(8, INTEGER, to("model.num_bessel")),
    "num_cutoff_basis": Flag(5, INTEGER, to("model.cutoff_power")),
    "pair_repulsion": Flag(False, ON, to("model.pair_repulsion")),
    "distance_transform": Flag(
        "None", choice("None", "Agnesi", "Soft"), to("model.distance_transform", lambda kind: "none" if kind == "None" else kind)
    ),
    "apply_cutoff": Flag(True, BOOLEAN, model.apply_cutoff),
    "use_last_readout_only": Flag(False, BOOLEAN, model.last_readout_only),
    "use_embedding_readout": Flag(False, BOOLEAN, model.beside("model.embedding_readout", "embedding_specs")),
    "interaction": Flag(
        "RealAgnosticResidualInteractionBlock", choice(*FIRST_BLOCKS, "RealAgnosticAttResidualInteractionBlock"), model.interaction
    ),
    "interaction_first": Flag("RealAgnosticResidualInteractionBlock", choice(*FIRST_BLOCKS), model.interaction_first),
    "max_ell": Flag(3, INTEGER, to("model.l_max")),
    "correlation": Flag(3, INTEGER, model.correlation),
    "use_reduced_cg": Flag(
        False,
        BOOLEAN,
        to(
            "model.contraction_basis",
            lambda reduced: "reduced" if reduced else "full",
            "in mace_run_train it only acts where cuequivariance is installed; the bases span the same functions.",
        ),
    ),
    "use_so3": Flag(False, BOOLEAN, model.so3),
    "use_agnostic_product": Flag(False, BOOLEAN, to("model.agnostic_product")),
    "num_interactions": Flag(2, INTEGER, to("model.num_interactions")),
    "MLP_irreps": Flag("16x0e", TEXT, model.readout_irreps),
    "radial_MLP": Flag("[64, 64, 64]", TEXT, to("model.radial_mlp", integers)),
    "hidden_irreps": Flag(None, TEXT, model.hidden_irreps),
    "edge_irreps": Flag(None, TEXT, model.edge_irreps),
    "use_edge_irreps_first": Flag(False, BOOLEAN, model.beside("model.edge_irreps_first_scalar", "edge_irreps")),
    "num_channels": Flag(None, INTEGER, model.num_channels),
    "max_L": Flag(None, INTEGER, model.max_L),
    "gate": Flag("silu", choice("silu", "tanh", "abs", "None"), to("model.gate", str.lower)),
    "kspace_cutoff_factor": Flag(1.5, NUMBER, POLAR),
    "atomic_multipoles_max_l": Flag(0, INTEGER, POLAR),
    "atomic_multipoles_smearing_width": Flag(1.0, NUMBER, POLAR),
    "field_feature_max_l": Flag(0, INTEGER, POLAR),
    "field_feature_widths": Flag("[1.0]", TEXT, POLAR),
    "field_feature_norms": Flag(None, TEXT, POLAR),
    "num_recursion_steps": Flag(1, INTEGER, POLAR),
    "field_si": Flag(False, BOOLEAN, POLAR),
    "include_electrostatic_self_interaction": Flag(False, BOOLEAN, POLAR),
    "add_local_electron_energy": Flag(False, BOOLEAN, POLAR),
    "quadrupole_feature_corrections": Flag(False, BOOLEAN, POLAR),
    "return_electrostatic_potentials": Flag(False, BOOLEAN, POLAR),
    "field_norm_factor": Flag(0.02, NUMBER, POLAR),
    "fixedpoint_update_config": Flag(None, TEXT, POLAR),
    "field_readout_config": Flag(None, TEXT, POLAR),
    "scaling": Flag("rms_forces_scaling", choice("std_scaling", "rms_forces_scaling", "no_scaling"), model.scaling),
    "avg_num_neighbors": Flag(1, NUMBER, model.neighbors),
    "compute_avg_num_neighbors": Flag(True, BOOLEAN, note("model.avg_num_neighbors says it: a number, or auto.")),
    "compute_stress": Flag(
        False, BOOLEAN, note("without effect: macejax always predicts stresses; the loss says whether it trains on them.")
    ),
    "compute_forces": Flag(True, BOOLEAN, note("without effect: to train on energies alone, set loss.forces_weight to 0.")),
    "compute_polarizability": Flag(False, BOOLEAN, DIPOLES),
    "compute_atomic_dipole": Flag(False, BOOLEAN, DIPOLES),
    # The data
    "train_file": Flag(None, TEXT, training.files("data.train")),
    "valid_file": Flag(None, TEXT, training.files("data.valid")),
    "valid_fraction": Flag(0.1, NUMBER, training.valid_fraction),
    "test_file": Flag(None, TEXT, training.files("data.test")),
    "test_dir": Flag(None, TEXT, refuse("macejax reads no HDF5: write the test sets to .xyz files and name them in data.test.")),
    "multi_processed_test": Flag(False, BOOLEAN, with_flag("test_dir")),
    "num_workers": Flag(0, INTEGER, LOADER),
    "pin_memory": Flag(True, BOOLEAN, LOADER),
    "atomic_numbers": Flag(None, TEXT, to("model.elements", lambda text: "auto" if text is None else integers(text))),
    "mean": Flag(None, NUMBER, model.mean),
    "std": Flag(None, NUMBER, model.std),
    "les_arguments": Flag(None, TEXT, note("without effect: only MACELES, which macejax lacks, reads it.")),
    "E0s": Flag(None, TEXT, model.e0s),
    "statistics_file": Flag(None, TEXT, model.statistics_file),  # after what it overrides
    # Fine-tuning
    "pseudolabel_replay": Flag(False, BOOLEAN, REPLAY),
    "pseudolabel_replay_compute_stress": Flag(False, BOOLEAN, REPLAY),
    "foundation_filter_elements": Flag(True, BOOLEAN, REPLAY),
    "heads": Flag(
        None,
        TEXT,
        refuse("macejax reads the head of a structure from the file (data.keys.head), not from which file it is in: write it there."),
    ),
    "multiheads_finetuning": Flag(True, BOOLEAN, fine_tuning.multiheads),
    "foundation_head": Flag(None, TEXT, fine_tuning.head),
    "weight_pt_head": Flag(1.0, NUMBER, REPLAY),
    "real_pt_data_ratio_threshold": Flag(0.1, NUMBER, REPLAY),
    "num_samples_pt": Flag(10000, INTEGER, REPLAY),
    "force_mh_ft_lr": Flag(False, BOOLEAN, REPLAY),
    "subselect_pt": Flag("random", choice("fps", "random"), REPLAY),
    "filter_type_pt": Flag("none", choice("none", "combinations", "inclusive", "exclusive"), REPLAY),
    "disallow_random_padding_pt": Flag(True, OFF, REPLAY),
    "pt_train_file": Flag(None, TEXT, REPLAY),
    "pt_valid_file": Flag(None, TEXT, REPLAY),
    "foundation_model_elements": Flag(
        False,
        BOOLEAN,
        fine_tuning.only_beside(Refusal("macejax cuts the model to the elements of the data: name those to keep in model.elements.")),
    ),
    "keep_isolated_atoms": Flag(False, BOOLEAN, to("data.keep_isolated_atoms")),
    "lora": Flag(False, BOOLEAN, refuse("macejax trains all parameters, and has no low-rank adaptation (LoRA).")),
    "lora_rank": Flag(4, INTEGER, with_flag("lora")),
    "lora_alpha": Flag(1.0, NUMBER, with_flag("lora")),
    # Names of the labels
    "energy_key": Flag("REF_energy", TEXT, training.key("energy")),
    "forces_key": Flag("REF_forces", TEXT, training.key("forces")),
    "virials_key": Flag("REF_virials", TEXT, training.key("virials")),
    "stress_key": Flag("REF_stress", TEXT, training.key("stress")),
    "dipole_key": Flag("dipole", TEXT, training.key("dipole")),
    "polarizability_key": Flag("polarizability", TEXT, training.key("polarizability")),
    "head_key": Flag("head", TEXT, training.key("head")),
    "charges_key": Flag("REF_charges", TEXT, training.key("charges")),
    "elec_temp_key": Flag("elec_temp", TEXT, training.elec_temp_key),
    "total_spin_key": Flag("total_spin", TEXT, training.key("total_spin")),
    "total_charge_key": Flag("total_charge", TEXT, training.key("total_charge")),
    "embedding_specs": Flag(None, TEXT, model.embedding_specs),
    "skip_evaluate_heads": Flag("pt_head", TEXT, note("without effect: errors of every head are tabulated.")),
    # The loss
    "loss": Flag(
        "weighted",
        choice(
            "ef",
            "weighted",
            "forces_only",
            "virials",
            "stress",
            "huber",
            "universal",
            "l1l2energyforces",
            "dipole",
            "dipole_polar",
            "energy_forces_dipole",
        ),
        training.loss,
    ),
    "forces_weight": Flag(100.0, NUMBER, training.weight("forces")),
    "swa_forces_weight": Flag(100.0, NUMBER, training.weight("forces", second=True), ("stage_two_forces_weight",)),
    "energy_weight": Flag(1.0, NUMBER, training.weight("energy")),
    "swa_energy_weight": Flag(1000.0, NUMBER, training.weight("energy", second=True), ("stage_two_energy_weight",)),
    "virials_weight": Flag(1.0, NUMBER, training.weight("virials")),
    "swa_virials_weight": Flag(10.0, NUMBER, training.weight("virials", second=True), ("stage_two_virials_weight",)),
    "stress_weight": Flag(1.0, NUMBER, training.weight("stress")),
    "swa_stress_weight": Flag(10.0, NUMBER, training.weight("stress", second=True), ("stage_two_stress_weight",)),
    "dipole_weight": Flag(1.0, NUMBER, training.weight("dipole")),
    "swa_dipole_weight": Flag(1.0, NUMBER, training.weight("dipole", second=True), ("stage_two_dipole_weight",)),
    "swa_polarizability_weight": Flag(1.0, NUMBER, training.weight("polarizability", second=True), ("stage_two_polarizability_weight",)),
    "polarizability_weight": Flag(1.0, NUMBER, training.weight("polarizability")),
    "config_type_weights": Flag('{"Default":1.0}', TEXT, training.config_type_weights),
    "huber_delta": Flag(0.01, NUMBER, training.huber_delta),
    # The optimizer
    "optimizer": Flag("adam", choice("adam", "adamw", "schedulefree"), training.optimizer),
    "beta": Flag(0.9, NUMBER, training.moment("optimizer.beta1", schedule_free=False)),
    "beta1_schedulefree": Flag(0.9, NUMBER, training.moment("optimizer.beta1", schedule_free=True)),
    "beta2_schedulefree": Flag(0.98, NUMBER, training.moment("optimizer.beta2", schedule_free=True)),
    "batch_size": Flag(
        10,
        INTEGER,
        to("data.batch_size", note="macejax also trains on the last, smaller batch of an epoch, which mace_run_train drops."),
    ),
    "valid_batch_size": Flag(
        10, INTEGER, note("macejax fills batches of data.valid_batch_atoms atoms; its validation loss does not depend on batches.")
    ),
    "lr": Flag(0.01, NUMBER, to("optimizer.learning_rate")),
    "swa_lr": Flag(0.001, NUMBER, training.second_rate, ("stage_two_lr",)),
    "weight_decay": Flag(5e-7, NUMBER, to("optimizer.weight_decay")),
    "lr_params_factors": Flag(
        '{"embedding_lr_factor": 1.0, "interactions_lr_factor": 1.0, "products_lr_factor": 1.0, "readouts_lr_factor": 1.0}',
        TEXT,
        parts.lr_factors,
    ),
    "freeze": Flag(None, INTEGER, parts.freeze),
    "amsgrad": Flag(
        True,
        ON,
        note("it is on in any case, and cannot be switched off in mace_run_train; in macejax optimizer.kind adam or adamw does it."),
    ),
    "scheduler": Flag("ReduceLROnPlateau", TEXT, training.scheduler),
    "lr_factor": Flag(0.8, NUMBER, training.schedule("factor", "ReduceLROnPlateau")),
    "scheduler_patience": Flag(50, INTEGER, training.schedule("patience", "ReduceLROnPlateau")),
    "lr_scheduler_gamma": Flag(0.9993, NUMBER, training.schedule("gamma", "ExponentialLR")),
    "swa": Flag(False, ON, training.stage_two, ("stage_two",)),
    "start_swa": Flag(None, INTEGER, training.start_of_stage_two, ("start_stage_two",)),
    "lbfgs": Flag(False, ON, refuse("macejax has no L-BFGS.")),
    "ema": Flag(False, ON, training.ema),
    "ema_decay": Flag(0.99, NUMBER, training.ema_decay),
    "max_num_epochs": Flag(2048, INTEGER, to("run.epochs")),
    "patience": Flag(
        2048,
        INTEGER,
        to("run.patience", note="macejax stops when it runs out; mace_run_train only says so and trains on, unless --distributed."),
    ),
    "foundation_model": Flag(None, TEXT, fine_tuning.foundation_model),
    "foundation_model_kwargs": Flag(
        "{}", TEXT, fine_tuning.only_beside(Refusal("macejax starts from the model as it is, without options of its own."))
    ),
    "foundation_model_readout": Flag(True, OFF, fine_tuning.only_beside(Refusal("macejax starts from the readouts of the model, too."))),
    # Checkpoints, backends, logs
    "eval_interval": Flag(1, INTEGER, training.eval_interval),
    "keep_checkpoints": Flag(False, ON, CHECKPOINTS),
    "save_all_checkpoints": Flag(False, ON, CHECKPOINTS),
    "restart_latest": Flag(False, ON, note("call macejax train --resume, which begins where there is nothing yet to go on with.")),
    "save_cpu": Flag(False, ON, note("model files of macejax belong to no device.")),
    "clip_grad": Flag(10.0, NUMBER_OR_NONE, to("optimizer.clip_norm")),
    "dry_run": Flag(False, ON, note("macejax config FILE checks a configuration.")),
    "enable_cueq": Flag(False, BOOLEAN, KERNELS),
    "only_cueq": Flag(False, BOOLEAN, KERNELS),
    "enable_oeq": Flag(False, BOOLEAN, KERNELS),
    "wandb": Flag(False, ON, WANDB),
    "wandb_dir": Flag(None, TEXT, WANDB),
    "wandb_project": Flag("", TEXT, WANDB),
    "wandb_entity": Flag("", TEXT, WANDB),
    "wandb_name": Flag("", TEXT, WANDB),
    "wandb_log_hypers": Flag(LOGGED, WORDS, WANDB),
}
