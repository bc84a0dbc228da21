"""Values of mace_run_train's flags -> the configuration of macejax that trains alike, with notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from macejax.config.migrate import fine_tuning
from macejax.config.migrate.fine_tuning import starts
from macejax.config.migrate.flags import Arguments, Note, Outcome, Set
from macejax.config.migrate.model_rules import IGNORED
from macejax.config.migrate.table import FLAGS
from macejax.config.run import TrainConfig
from macejax.config.section import ConfigError
from macejax.config.text import load_config, option_names

WIDTH = 120


class Migration(NamedTuple):
    """What became of a call of mace_run_train."""

    options: dict[str, Any]  # dotted name -> value, in the order of the configuration
    notes: tuple[str, ...]  # a sentence per flag that has no meaning here, or another one
    refused: tuple[str, ...]  # a sentence per flag that asks for what macejax cannot do; it is left out of the options


def migrate(arguments: Arguments) -> Migration:
    """Translate the arguments of mace_run_train.

    The options are those that differ from macejax's defaults, and those of flags that were given.

    Raises:
      ConfigError: a value that cannot be read; no training file; a configuration that macejax does not take.
    """
    if arguments.values["train_file"] is None and arguments.values["heads"] is None:
        raise ConfigError("--train_file is missing.")
    options: dict[str, Any] = {}
    flags: dict[str, str] = {}  # option -> the flag that it comes from
    notes: dict[str, list[str]] = {}  # text -> flags
    refused: dict[str, list[str]] = {}
    for name, outcome in _outcomes(arguments):
        if isinstance(outcome, Set) and starts(arguments) and outcome.option in fine_tuning.IGNORED:
            if name in arguments.given:
                text = "without effect beside --foundation_model, whose architecture and constants are kept."
                notes.setdefault(text, []).append(_spellings(name))
        elif isinstance(outcome, Set) and outcome.option in IGNORED.get(arguments.values["model"], ()):
            if outcome.value != _default(outcome.option):
                notes.setdefault(f"without effect, as in mace_run_train, on {arguments.values['model']}.", []).append(_spellings(name))
        elif isinstance(outcome, Set):
            if name in arguments.given or outcome.value != _default(outcome.option):
                options[outcome.option] = outcome.value
                flags[outcome.option] = name
        else:
            said = notes if isinstance(outcome, Note) else refused
            said.setdefault(outcome.text, []).append(_spellings(name))
    ordered = {option: options[option] for option in option_names() if option in options}
    ordered |= options  # a section that is given as a whole has no name among the options
    for option, reason in _drop_invalid(ordered):
        refused.setdefault(f"macejax does not take this as {option}: {reason}.", []).append(_spellings(flags[option]))
    return Migration(ordered, _sentences(notes), _sentences(refused))


def render(migration: Migration) -> str:
    """The configuration as YAML, with the notes, and what was left out, as comments at its head."""
    lines = ["Migrated from mace_run_train. Options that are not named keep the defaults of macejax."]
    lines += [f"LEFT OUT {sentence}" for sentence in migration.refused] + list(migration.notes)
    head = [textwrap.fill(line, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False) for line in lines]
    tree: dict[str, Any] = {}
    for option, value in migration.options.items():
        *sections, leaf = option.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return "\n".join(head) + "\n" + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _drop_invalid(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Take out of the options, one by one, those with values that macejax train would not take, and say why."""
    while True:
        try:
            load_config(None, {"data.train": "unknown.xyz"} | options)
            return
        except ConfigError as error:
            option, _, reason = str(error).partition(": ")
            if option not in options:
                raise
            del options[option]
            yield option, reason.partition("; ")[0].rstrip(".")


def _outcomes(arguments: Arguments) -> Iterator[tuple[str, Outcome]]:
    for name, flag in FLAGS.items():
        try:
            for outcome in flag.rule(name, arguments):
                yield name, outcome
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"--{name}: {str(error).rstrip('.')}.") from None


def _default(option: str) -> Any:
    """Default of an option, as YAML has it; None where it has none."""
    section: Any = TrainConfig
    *parents, leaf = option.split(".")
    for parent in parents:
        section = section.model_fields[parent].annotation
    value = section.model_fields[leaf].default
    return list(value) if isinstance(value, tuple) else value


def _spellings(name: str) -> str:
    aliases = ", ".join(f"--{alias}" for alias in FLAGS[name].aliases)
    return f"--{name} ({aliases})" if aliases else f"--{name}"


def _sentences(said: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"{', '.join(flags)}: {text}" for text, flags in said.items())
