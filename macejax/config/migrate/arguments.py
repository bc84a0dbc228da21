"""Command line or YAML of mace_run_train -> the values of its flags."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from macejax.config.migrate.flags import Arguments, Flag
from macejax.config.migrate.literals import literal
from macejax.config.migrate.shell import find_command, program_place
from macejax.config.migrate.table import FLAGS
from macejax.config.section import ConfigError
from macejax.config.text import read_yaml

NAMES = {spelling: name for name, flag in FLAGS.items() for spelling in (name, *flag.aliases)}
CONFIG = "config"  # the flag that names a YAML file with further flags
Given = dict[str, Any]


def read_source(path: Path) -> Arguments:
    """Arguments from a file: YAML of mace_run_train (.yaml, .yml), or a script with a call of it.

    Raises:
      ConfigError: the file cannot be read, holds no call of mace_run_train, or one with flags or values that it would not take.
    """
    if path.suffix in (".yaml", ".yml"):
        return collect(_from_yaml(path))
    try:
        script = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    words = find_command(script)
    if words is None:
        raise ConfigError(f"{path} holds no call of mace_run_train; a file of options must end in .yaml.")
    return collect(_from_words(words, path.parent))


def read_command(words: Sequence[str]) -> Arguments:
    """Arguments from a command line, with or without what stands before its first flag.

    Raises:
      ConfigError: a flag or value that mace_run_train would not take.
    """
    place = program_place(words)
    return collect(_from_words(words if place is None else words[place + 1 :], Path()))


def collect(given: Mapping[str, Any]) -> Arguments:
    """Arguments from the values that are given, with mace_run_train's defaults for the others."""
    given = _with_single_head(given)
    defaults = {name: flag.default for name, flag in FLAGS.items()}
    return Arguments({**defaults, **given}, defaults, frozenset(given))


def _from_words(words: Sequence[str], folder: Path) -> Given:
    given: Given = {}
    files: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} belongs to no flag of mace_run_train.")
        spelling, equals, text = word[2:].partition("=")
        if spelling == CONFIG:
            files.append(text if equals else _next(rest, spelling))
            continue
        name = _full_name(spelling)
        arity = FLAGS[name].reader.arity
        if arity == "none":
            if equals:
                raise ConfigError(f"--{spelling} takes no value, but {text!r} is given.")
            given[name] = FLAGS[name].reader.parse("")
        elif arity == "many" and not equals:
            given[name] = [_next(rest, spelling)]
            while rest and not rest[0].startswith("--"):
                given[name].append(rest.pop(0))
        else:
            value = _parsed(spelling, FLAGS[name], text if equals else _next(rest, spelling))
            given[name] = [value] if arity == "many" else value
    for file in files[-1:]:
        path = Path(file) if Path(file).exists() else folder / file
        given = {**_from_yaml(path), **given}
    return given


def _next(rest: list[str], spelling: str) -> str:
    if not rest or rest[0].startswith("--"):
        raise ConfigError(f"--{spelling} needs a value.")
    return rest.pop(0)


def _from_yaml(path: Path) -> Given:
    given: Given = {}
    for key, value in read_yaml(path).items():
        spelling = str(key).removeprefix("--")
        if spelling == CONFIG:
            raise ConfigError(f"{path}: a YAML file of mace_run_train cannot name another by {CONFIG}.")
        name = _full_name(spelling, f"{path}: ")
        flag = FLAGS[name]
        if value is None or (flag.reader.arity == "none" and _is_off(value, spelling)):
            continue
        if isinstance(value, list | dict):
            given[name] = value if flag.reader.parse is str else _parsed(spelling, flag, str(value))
        else:
            given[name] = _parsed(spelling, flag, str(value))
    return given


def _is_off(value: Any, spelling: str) -> bool:
    text = str(value).lower()
    if text not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise ConfigError(f"{spelling} must be true or false, not {value!r}.")
    return text in ("false", "no", "off", "0")


def _parsed(spelling: str, flag: Flag, text: str) -> Any:
    try:
        return flag.reader.parse(text)
    except ValueError as error:
        raise ConfigError(f"--{spelling} {error}, not {text!r}.") from None


def _full_name(spelling: str, where: str = "") -> str:
    """The flag of this spelling, of which argparse accepts any beginning that is unambiguous."""
    found = {NAMES[spelling]} if spelling in NAMES else {name for known, name in NAMES.items() if spelling and known.startswith(spelling)}
    if len(found) == 1:
        return found.pop()
    near = difflib.get_close_matches(spelling, NAMES, n=1, cutoff=0)
    more = f"it may be {' or '.join(f'--{name}' for name in sorted(found))}" if found else f"did you mean --{near[0]}?"
    raise ConfigError(f"{where}mace_run_train has no flag --{spelling}: {more}")


def _with_single_head(given: Mapping[str, Any]) -> Given:
    """A dictionary with one head says for it what the flags say for all, and wins over them."""
    values = dict(given)
    heads = _literal_or_error(given.get("heads"))
    if not isinstance(heads, dict) or len(heads) != 1:
        return values
    (head,) = heads.values()
    if not isinstance(head, dict):
        raise ConfigError(f"--heads: {head!r} does not describe a head.")
    del values["heads"]
    for flag in ("test_file", "test_dir"):  # mace_run_train takes them from the description of a head only
        values.pop(flag, None)
    options = {key: value for key, value in head.items() if key not in ("info_keys", "arrays_keys")}
    for group in ("info_keys", "arrays_keys"):
        options.update({f"{label}_key": name for label, name in (head.get(group) or {}).items()})
    for key, value in options.items():
        name = _full_name(str(key), "--heads: ")
        values[name] = value if isinstance(value, list | dict) else _parsed(name, FLAGS[name], str(value))
    return values


def _literal_or_error(text: Any) -> Any:
    try:
        return literal(text)
    except ValueError as error:
        raise ConfigError(f"--heads: {error}.") from None
