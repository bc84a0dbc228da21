"""Rules of flags of mace_run_train about fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from macejax.config.migrate.flags import Arguments, Note, Outcome, Refusal, Rule, Set
from macejax.config.model import ModelSection
from macejax.config.start import KEPT

OWNER = "foundation_model"
IDLE = f"only acts together with --{OWNER}; it is left out."
# Options that a run from a model ignores in mace_run_train, and that macejax refuses.
IGNORED = {f"model.{name}" for name in ModelSection.model_fields if name not in KEPT}


def starts(arguments: Arguments) -> bool:
    """Whether the run starts from a model."""
    return arguments.values[OWNER] is not None


def foundation_model(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--foundation_model."""
    if not starts(arguments):
        return
    yield Set("start.model", arguments.values[name])
    yield Note("scale, shift and number of neighbours are those of that model.")


def head(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--foundation_head."""
    yield from _beside_a_model(name, arguments, Set("start.head", arguments.values[name]))


def multiheads(name: str, arguments: Arguments) -> Iterator[Outcome]:
    """--multiheads_finetuning, on by default, which fetches replay data for the models that mace_run_train knows by name."""
    files = arguments.values["pt_train_file"]
    wanted = arguments.values[name] and (files is not None or not str(arguments.values[OWNER]).endswith((".model", ".pt", ".mace")))
    if starts(arguments) and wanted:
        yield Refusal(
            "macejax fetches and draws no replay data, and would learn the new data alone: to keep what the model knows, add structures "
            "with labels of its own level of theory to data.train, with the name of its head as their head."
        )
    else:
        yield from _beside_a_model(name, arguments, Note("nothing is replayed, as in mace_run_train without --pt_train_file."))


def only_beside(outcome: Outcome) -> Rule:
    """A flag that does nothing where no model is started from. Where one is, this is said: a note of any flag that is given, a refusal of
    what is not the default, which is what macejax does.
    """

    def rule(name: str, arguments: Arguments) -> Iterator[Outcome]:
        yield from _beside_a_model(name, arguments, outcome)

    return rule


def _beside_a_model(name: str, arguments: Arguments, outcome: Outcome) -> Iterator[Outcome]:
    if not starts(arguments):
        if name in arguments.given:
            yield Note(IDLE)
    elif arguments.values[name] != arguments.defaults[name] or (isinstance(outcome, Note) and name in arguments.given):
        yield outcome
    elif name in arguments.given:
        yield Note("it is so in macejax.")
