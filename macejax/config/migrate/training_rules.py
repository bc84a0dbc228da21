"""Rules of flags about data, loss and optimizer that take more than a new name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from macejax.config.migrate.flags import Arguments, Note, Outcome, Refusal, Rule, Set
from macejax.config.migrate.literals import weights
from macejax.config.optimize import TERMS, WITH_DELTA

LOSSES = {"l1l2energyforces": "l1l2"}  # the others have the same name
LOSS_NOTES = {
    "huber": "mace_run_train's huber ignores the weights of structures and pulls predictions without a label to zero; "
    "macejax heeds the weights and leaves missing labels out.",
    "universal": "macejax heeds config_weight, which mace_run_train's universal ignores.",
    "l1l2energyforces": "macejax heeds the weights of structures in the forces, which mace_run_train ignores there.",
}
PLAIN_IN_STAGE_TWO = ("huber", "l1l2energyforces")
NOT_READ = (".h5", ".hdf5", ".lmdb", ".aselmdb", ".mdb")


def name(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--name."""
    value = arguments.values[flag]
    if value is None:
        yield Note("is missing, though mace_run_train requires it; the run is called macejax.")
        return
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", value).lstrip(".") or "macejax"
    yield Set("run.name", plain)
    if plain != value:
        yield Note(f"{value!r} cannot name a folder in macejax; the run is called {plain!r}.")


def work_dir(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--work_dir."""
    if flag in arguments.given:
        yield Set("run.directory", arguments.values[flag])
        yield Note("all files of a run lie in <run.directory>/<run.name>.")


def config_type_weights(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--config_type_weights."""
    table = weights(arguments.values[flag])
    yield Set("data.config_type_weights", table)
    if table:
        yield Note(
            "they act in training only, in mace_run_train in validation too; a config_type that no training structure has is an error."
        )


def files(option: str) -> Rule:
    """A file of structures, or a list of them."""

    def rule(flag: str, arguments: Arguments) -> Iterator[Outcome]:
        value = arguments.values[flag]
        if value is None:
            return
        paths = [str(path) for path in (value if isinstance(value, list) else [value])]
        yield Set(option, paths)
        if option != "data.train" and not arguments.values["keep_isolated_atoms"]:
            yield Note("its frames with config_type=IsolatedAtom are left out, which mace_run_train keeps.")
        for path in paths:
            if path.endswith(NOT_READ) or Path(path).is_dir():
                yield Refusal(f"macejax reads extended XYZ and what ASE reads, not {path}: write its structures to an .xyz file.")

    return rule


def key(label: str) -> Rule:
    """The name of a label in the files."""

    def rule(flag: str, arguments: Arguments) -> Iterator[Outcome]:
        value = arguments.values[flag]
        yield Set(f"data.keys.{label}", None if value == "None" else value)
        if value not in ("None", arguments.defaults[flag]) and label not in ("energy", "forces"):
            yield Note("macejax refuses a file without this key, which mace_run_train passes over; null leaves the label out.")
        if flag in arguments.given and label == "forces" and value == "forces":
            yield Note("mace_run_train sets these forces to zero on atoms that a constraint fixes; macejax takes them as they stand.")
        if flag in arguments.given and label == "head":
            yield Note(
                "mace_run_train overwrites the heads of the structures with its own; macejax makes a head of each: set data.keys.head to "
                "null to take them as one."
            )

    return rule


def loss(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--loss."""
    kind = arguments.values[flag]
    yield Set("loss.kind", LOSSES.get(kind, kind))
    if flag not in arguments.given:
        return
    if kind in LOSS_NOTES:
        yield Note(LOSS_NOTES[kind])
    extra = _terms(kind)[-1]
    if extra in ("stress", "virials", "dipole", "polarizability"):
        yield Note(f"macejax stops where no training structure has {extra}: then set loss.{extra}_weight (and stage_two's) to 0.")
    yield Note("means run over the labels that are there; mace_run_train's run over the missing ones too, which weakens the term.")


def weight(term: str, *, second: bool = False) -> Rule:
    """The weight of a term of the loss, in the first or the second stage."""

    def rule(flag: str, arguments: Arguments) -> Iterator[Outcome]:
        kind = arguments.values["loss"]
        if second and stage_two_start(arguments) is None:
            why = "there is no second stage"
        elif kind == "ef" and term in ("energy", "forces") and not second:
            why = "with --loss ef both weights are 1; take --loss weighted to choose them"
        elif term not in _terms(kind):
            why = f"the loss {kind!r} has no such term"
        else:
            yield Set(f"{'stage_two' if second else 'loss'}.{term}_weight", arguments.values[flag])
            return
        if flag in arguments.given:
            yield Note(f"without effect, as in mace_run_train: {why}.")

    return rule


def huber_delta(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--huber_delta."""
    if LOSSES.get(kind := arguments.values["loss"], kind) in WITH_DELTA:
        yield Set("loss.huber_delta", arguments.values[flag])
    elif flag in arguments.given:
        yield Note(f"without effect, as in mace_run_train: the loss {kind!r} does not read it.")


def valid_fraction(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--valid_fraction."""
    if arguments.values["valid_file"] is None:
        yield Set("data.valid_fraction", arguments.values[flag])
    elif flag in arguments.given:
        yield Note("without effect, as in mace_run_train: there is a --valid_file.")


def _terms(kind: str) -> tuple[str, ...]:
    return TERMS[LOSSES.get(kind, kind)]


def optimizer(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--optimizer, in which mace_run_train cannot switch amsgrad off."""
    yield Set("optimizer.kind", {"adam": "amsgrad", "adamw": "amsgradw"}.get(arguments.values[flag], arguments.values[flag]))


def moment(option: str, *, schedule_free: bool) -> Rule:
    """A decay of moments, of schedule-free or of the other optimizers."""

    def rule(flag: str, arguments: Arguments) -> Iterator[Outcome]:
        if schedule_free == _is_schedule_free(arguments):
            yield Set(option, arguments.values[flag])
        elif flag in arguments.given:
            yield Note(f"without effect, as in mace_run_train: --optimizer is {arguments.values['optimizer']}.")

    return rule


def scheduler(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--scheduler."""
    kinds = {"ReduceLROnPlateau": "plateau", "ExponentialLR": "exponential"}
    value = arguments.values[flag]
    if _is_schedule_free(arguments):
        yield Set("optimizer.schedule.kind", "constant")
        if flag in arguments.given:
            yield Note("without effect, as in mace_run_train: schedulefree takes no schedule.")
    elif value in kinds:
        yield Set("optimizer.schedule.kind", kinds[value])
    else:
        yield Refusal(f"no schedule is called {value!r}, in mace_run_train neither: it has {' and '.join(kinds)}.")


def schedule(option: str, of: str) -> Rule:
    """An option of one of the schedules."""

    def rule(flag: str, arguments: Arguments) -> Iterator[Outcome]:
        value: Any = arguments.values[flag]
        if arguments.values["scheduler"] != of or _is_schedule_free(arguments):
            if flag in arguments.given:
                yield Note(f"without effect, as in mace_run_train: there is no {of}.")
            return
        if flag == "scheduler_patience" and (interval := arguments.values["eval_interval"]) > 1:
            yield Note(f"{value} epochs, which mace_run_train counts, are {value // interval} validations, which macejax counts.")
            value //= interval
        yield Set(f"optimizer.schedule.{option}", value)

    return rule


def ema(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--ema."""
    if not arguments.values[flag]:
        return
    if _is_schedule_free(arguments):
        yield Refusal("schedulefree has an average of its own, and macejax takes no second one.")
    else:
        yield Set("run.ema_decay", arguments.values["ema_decay"])


def ema_decay(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--ema_decay."""
    if flag in arguments.given and not arguments.values["ema"]:
        yield Note("without effect, as in mace_run_train: --ema is not given.")


def stage_two_start(arguments: Arguments) -> int | None:
    """The epoch at which the second stage begins; None where it does not."""
    start, epochs = arguments.values["start_swa"], arguments.values["max_num_epochs"]
    if start is None and not arguments.values["swa"]:
        return None
    start = max(1, epochs // 4 * 3) if start is None else start
    return start if start < epochs else None


def stage_two(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--swa and --start_swa, of which the second implies the first."""
    start, epochs, kind = stage_two_start(arguments), arguments.values["max_num_epochs"], arguments.values["loss"]
    if start is None:
        if arguments.given & {"swa", "start_swa"}:
            yield Note(f"the second stage would begin after the last of the {epochs} epochs; it is left out, as in mace_run_train.")
        return
    if start < 1:
        return  # refused by `start_of_stage_two`
    yield Set("stage_two.enabled", True)
    if start != epochs // 4 * 3 or "start_swa" in arguments.given:
        yield Set("stage_two.start", start)
    yield Note(
        "the second stage has other weights and another learning rate, as in mace_run_train, whose averaged model (the A of SWA) is never "
        "tested or saved and is left out here; the best model of the first stage is saved as NAME_stage_one.mace."
    )
    if kind in PLAIN_IN_STAGE_TWO:
        yield Note(
            f"mace_run_train changes to the loss weighted in the second stage of {kind}; macejax goes on with {kind}: see whether "
            f"the weights of stage_two suit it."
        )
    if kind in ("forces_only", "dipole"):
        yield Note(f"mace_run_train refuses a second stage of {kind}; macejax only lowers the learning rate in it.")


def start_of_stage_two(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--start_swa."""
    value = arguments.values[flag]
    if value is not None and value < 1:
        yield Refusal(f"the second stage of macejax begins after the first epoch at the earliest, not after {value}.")
    elif flag in arguments.given and "swa" not in arguments.given and stage_two_start(arguments) is not None:
        yield Note("switches the second stage on, as in mace_run_train.")


def second_rate(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--swa_lr."""
    if stage_two_start(arguments) is not None:
        yield Set("stage_two.learning_rate", arguments.values[flag])
    elif flag in arguments.given:
        yield Note("without effect, as in mace_run_train: there is no second stage.")


def eval_interval(flag: str, arguments: Arguments) -> Iterator[Outcome]:
    """--eval_interval."""
    value = arguments.values[flag]
    yield Set("run.validate_every", value)
    if value > 1:
        yield Note(f"macejax validates after epoch {value}, {2 * value}, ... and the last; mace_run_train after epoch 1, {value + 1}, ...")


def _is_schedule_free(arguments: Arguments) -> bool:
    return arguments.values["optimizer"] == "schedulefree"


def elec_temp_key(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--elec_temp_key: inputs of macejax have their own names in the file."""
    if arguments.values[name] != "elec_temp":
        yield Refusal("macejax reads the temperature of the electrons from the key elec_temp: rename it in the file.")
