"""YAML and dotted overrides <-> TrainConfig."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from macejax.config.model import ModelSection
from macejax.config.run import TrainConfig
from macejax.config.section import ConfigError, Section


def load_config(path: str | os.PathLike | None = None, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Configuration of a run from a YAML file and overrides.

    Args:
      path: YAML file; None for an empty one.
      overrides: dotted names to values, such as {"model.num_channels": 32}; they win over the file.

    Raises:
      ConfigError: file missing or not YAML, unknown key, value out of range.
    """
    values = {} if path is None else read_yaml(Path(path))
    for name, value in (overrides or {}).items():
        _set(values, name, value)
    data = values.get("data") or {}
    if isinstance(data, dict) and data.get("train") is None:
        raise ConfigError("no training file is named: set data.train in the configuration, or give --train FILE.")
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(in_a_sentence(error)) from None


def load_model_section(path: str | os.PathLike) -> ModelSection:
    """The section `model` of a YAML file; the others are not read.

    Raises:
      ConfigError: as `load_config`, or there is no such section.
    """
    values = read_yaml(Path(path))
    if not isinstance(values.get("model"), dict):
        raise ConfigError(f"{path} has no section `model`, which says the architecture.")
    try:
        return ModelSection.model_validate(values["model"])
    except ValidationError as error:
        raise ConfigError(in_a_sentence(error, "model")) from None


def dump_config(config: Section) -> str:
    """YAML of every option of a configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """`["model.num_channels=32", ...]` as a dictionary; the right-hand sides are YAML.

    Raises:
      ConfigError: no equals sign, or a value that is not YAML.
    """
    overrides = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"{assignment!r} is no assignment: write section.option=value, such as model.num_channels=32.")
        try:
            overrides[name.strip()] = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of {name} cannot be read: {_one_line(error)}") from None
    return overrides


def template(section: type[Section] = TrainConfig) -> str:
    """A YAML file of all defaults, with the help of each option as a comment."""
    return "\n".join(_template_lines(section, 0)) + "\n"


def option_names(section: type[Section] = TrainConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of all options."""
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            yield from option_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which moreover refuses a key that stands twice (YAML silently takes the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; {} for an empty file.

    Raises:
      ConfigError: file missing, not YAML, a key that stands twice, or no mapping.
    """
    try:
        values = yaml.load(path.read_text(), Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {_one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no options, but a {type(values).__name__}.")
    return values


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    node = values
    for parent in parents:
        child = node.get(parent)
        node[parent] = child = {} if child is None else child
        if not isinstance(child, dict):
            raise ConfigError(f"{dotted} cannot be set: {parent} is not a section.")
        node = child
    node[leaf] = value


def in_a_sentence(error: ValueError, section: str | None = None) -> str:
    """What is wrong, without pydantic's lines: of each option its name, within a section, and the reason."""
    if not isinstance(error, ValidationError):
        return str(error)
    within = () if section is None else (section,)
    return "; ".join(_sentence({**part, "loc": (*within, *part["loc"])}) for part in error.errors())


def _sentence(error: Mapping[str, Any]) -> str:
    """One error of pydantic as `section.option: reason`, with the place of an option that stands in the wrong section."""
    where = ".".join(str(part) for part in error["loc"])
    reason = error["msg"].removeprefix("Value error, ")
    if reason.startswith("unknown key "):
        key = reason.split("'")[1]
        homes = [name for name in option_names() if name.rsplit(".", 1)[-1] == key]
        if homes:
            reason = f"unknown key {key!r}: did you mean {' or '.join(homes)}?"
        return f"{where}: {reason}" if where else reason
    given = "" if isinstance(error.get("input"), dict | Section) else f" (got {error.get('input')!r})"
    return f"{where}: {reason}{given}" if where else reason


def _template_lines(section: type[Section], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in section.model_fields.items():
        yield from (f"{indent}# {line}" for line in textwrap.wrap(field.description or "", 120 - len(indent)))
        if _is_section(field.annotation):
            yield f"{indent}{name}:"
            yield from _template_lines(field.annotation, depth + 1)
        else:
            default = None if field.default is PydanticUndefined else field.default
            default = list(default) if isinstance(default, tuple) else default
            text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
            yield f"{indent}{name}: {text}"
        if depth == 0:
            yield ""


def _is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
