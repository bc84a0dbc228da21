"""What a flag of mace_run_train is: how its text is read, and the rule that says what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple


class Set(NamedTuple):
    """An option of macejax that takes over what the flag says."""

    option: str  # dotted name, such as model.cutoff
    value: Any


class Note(NamedTuple):
    """What the user should know of the flag, in a sentence."""

    text: str


class Refusal(NamedTuple):
    """The flag asks for something that macejax cannot do."""

    text: str


Outcome = Set | Note | Refusal


class Arguments(NamedTuple):
    """The arguments of a run of mace_run_train, by the name of the flag without its hyphens."""

    values: Mapping[str, Any]  # of all flags, at their defaults where they were not given
    defaults: Mapping[str, Any]
    given: frozenset[str]


Rule = Callable[[str, Arguments], Iterator[Outcome]]


class Reader(NamedTuple):
    """How the text of a value is read."""

    parse: Callable[[str], Any]  # raises ValueError, whose message says what the text should be
    arity: Literal["none", "one", "many"] = "one"


class Flag(NamedTuple):
    """One flag."""

    default: Any  # of mace_run_train 0.3.16
    reader: Reader
    rule: Rule
    aliases: tuple[str, ...] = ()


def _boolean(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise ValueError("must be True or False")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be an integer") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def choice(*names: str) -> Reader:
    """One of some names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return Reader(parse)


TEXT = Reader(str)
INTEGER = Reader(_integer)
NUMBER = Reader(_number)
NUMBER_OR_NONE = Reader(lambda text: None if text == "None" else _number(text))
BOOLEAN = Reader(_boolean)
ON = Reader(lambda _: True, "none")
OFF = Reader(lambda _: False, "none")
WORDS = Reader(str, "many")


def to(option: str, convert: Callable[[Any], Any] | None = None, note: str | None = None) -> Rule:
    """The option means the same; `note` is said where the flag is given."""

    def rule(name: str, arguments: Arguments) -> Iterator[Outcome]:
        value = arguments.values[name]
        yield Set(option, value if convert is None else convert(value))
        if note is not None and name in arguments.given:
            yield Note(note)

    return rule


def note(text: str) -> Rule:
    """The flag has no counterpart, and needs none."""

    def rule(name: str, arguments: Arguments) -> Iterator[Outcome]:
        if name in arguments.given:
            yield Note(text)

    return rule


def refuse(text: str) -> Rule:
    """macejax cannot do it: any value but the default is refused."""

    def rule(name: str, arguments: Arguments) -> Iterator[Outcome]:
        if arguments.values[name] != arguments.defaults[name]:
            yield Refusal(text)

    return rule


def with_flag(owner: str) -> Rule:
    """The flag only matters beside another one, which has a rule of its own."""
    return note(f"only acts together with --{owner}; it is left out.")
