"""Models with other heads (levels of theory), or cut to some of their elements: the same numbers from fewer parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import e3nn_jax as e3nn
import jax
import numpy as np

from macejax.config import ModelConfig
from macejax.config.model import atomic_number, check_head_names
from macejax.data.species import names
from macejax.data.statistics import e0s_from_table
from macejax.model.model import Model

_LINEAR, _HIDDEN = "linear", ("linear_1", "linear_mid", "bias_mid")


def select_head(model: Model, head: str | None) -> Model:
    """The model with that head alone; its energies are those that the head had.

    Args:
      model: with one head or more.
      head: its name; None will do where there is only one.

    Raises:
      ValueError: there is no such head, or there are several and none was named.
    """
    heads = model.config.heads
    if head is None and len(heads) > 1:
        raise ValueError(f"the model has the heads {', '.join(heads)}: say which one.")
    return take_heads(model, {name: name for name in ([head] if head is not None else heads)})


def remove_head(model: Model, head: str) -> Model:
    """The model without that head.

    Raises:
      ValueError: there is no such head, or it is the last one.
    """
    _place(model, head)
    if len(model.config.heads) == 1:
        raise ValueError(f"{head!r} is the only head of the model.")
    return take_heads(model, {name: name for name in model.config.heads if name != head})


def take_heads(model: Model, sources: Mapping[str, str]) -> Model:
    """The model with these heads, each a copy of one that it has.

    Args:
      model: with one head or more.
      sources: name of each head -> name of the head of `model` whose readouts, E0s, scale and shift it has.

    Raises:
      ValueError: a source is no head of the model, or it is a model of moments, which has one head, and several are wanted.
    """
    config = model.config
    if list(sources.items()) == [(head, head) for head in config.heads]:
        return model
    places = [_place(model, source) for source in sources.values()]

    def pick(values: Sequence[Any]) -> Any:
        picked = tuple(values[place] for place in places)
        return picked if len(picked) > 1 else picked[0]

    fields = {"heads": tuple(sources), "e0s": pick(config.e0_table), "scale": pick(config.scales), "shift": pick(config.shifts)}
    changed = _replaced(config, **fields)  # which refuses heads of a model of moments
    tree = dict(model.params["params"])
    for name, readout in tree.items():
        if name.startswith("readout_") or name == "embedding_readout":
            tree[name] = _pick_readout(config, readout, places)
    return Model(changed, {"params": tree})


def add_head(
    model: Model,
    head: str,
    *,
    like: str | None = None,
    e0s: Sequence[float] | Mapping[int, float] | Mapping[str, float] | None = None,
    scale: float | None = None,
    shift: float | None = None,
) -> Model:
    """The model with one head more, whose readouts start as those of another.

    Args:
      model: with one head or more.
      head: name of the new one.
      like: head whose weights and constants it starts with; None is the last one.
      e0s: its energies of isolated atoms (eV): one for every element of the model in order, or a table of those that differ.
      scale, shift: its own (eV), instead of those of `like`.

    Raises:
      ValueError: the name is taken, empty or has a comma, `like` is no head, e0s do not fit the elements, or the model takes no heads,
        scale or shift.
      DataError: e0s name what is no element, or one twice, or an energy is not finite.
    """
    config = model.config
    if config.model not in ("MACE", "ScaleShiftMACE"):
        raise ValueError(f"an {config.model} has one head, and takes no other.")
    if config.model == "MACE" and (scale is not None or shift is not None):
        raise ValueError("scale and shift have no effect on a MACE; a ScaleShiftMACE has them.")
    if head in config.heads:
        raise ValueError(f"the model has a head {head!r} already.")
    check_head_names((head,))
    source = len(config.heads) - 1 if like is None else _place(model, like)
    wider = take_heads(model, {**{name: name for name in config.heads}, head: config.heads[source]})
    rows, scales, shifts = list(wider.config.e0_table), list(wider.config.scales), list(wider.config.shifts)
    if e0s is not None:
        rows[-1] = _e0_row(config, rows[-1], e0s)
    scales[-1], shifts[-1] = scales[-1] if scale is None else scale, shifts[-1] if shift is None else shift
    return wider._replace(config=_replaced(wider.config, e0s=tuple(rows), scale=tuple(scales), shift=tuple(shifts)))


def select_elements(model: Model, elements: Iterable[int | str]) -> Model:
    """The model cut to some of its elements, for which it gives the same energies.

    Args:
      model: any.
      elements: atomic numbers or symbols.

    Raises:
      ValueError: none, or one that the model does not know.
    """
    config = model.config
    wanted = sorted({atomic_number(element) for element in elements})
    if not wanted:
        raise ValueError("no elements are named that the model is to keep.")
    if missing := set(wanted) - set(config.elements):
        raise ValueError(f"the model does not know {names(sorted(missing))}; it knows {names(config.elements)}.")
    places = np.array([config.elements.index(number) for number in wanted], np.int64)
    # Where a weight is divided by the square root of the number of elements, fewer elements must find smaller weights.
    factor = math.sqrt(len(wanted) / len(config.elements))

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        keys, leaf = [step.key for step in path], np.asarray(leaf)
        if keys[1] == "node_embedding" or keys[-1] in ("source_embedding", "target_embedding") or (keys[-2] == "skip" and leaf.ndim == 3):
            return (leaf[places] * factor).astype(leaf.dtype)
        if "contraction" in keys and not config.agnostic_product:
            return leaf[places]
        return leaf

    rows = tuple(tuple(row[place] for place in places) for row in config.e0_table)
    params = jax.tree_util.tree_map_with_path(cut, model.params)
    return Model(_replaced(config, elements=tuple(wanted), e0s=rows if len(rows) > 1 else rows[0]), params)


def _pick_readout(config: ModelConfig, readout: Mapping[str, Any], places: list[int]) -> dict[str, Any]:
    """A readout with the parts of some heads. A head reads its own part of a hidden layer alone, but weights are divided by the square root
    of the width of all."""
    readout = {name: np.asarray(value) for name, value in readout.items()}
    if _LINEAR in readout:
        return {_LINEAR: readout[_LINEAR][:, places]}
    width = e3nn.Irreps(config.readout_irreps).dim
    columns = np.concatenate([np.arange(place * width, (place + 1) * width) for place in places])
    factor = math.sqrt(len(places) / len(config.heads))
    picked = {name: readout[name][..., columns] for name in _HIDDEN if name in readout}
    if "linear_mid" in picked:
        picked["linear_mid"] = picked["linear_mid"][columns] * factor
        picked["bias_2"] = readout["bias_2"][places]
    picked["linear_2"] = readout["linear_2"][columns][:, places] * factor
    return {name: value.astype(readout["linear_1"].dtype) for name, value in picked.items()}


def _place(model: Model, head: str) -> int:
    heads = model.config.heads
    if head not in heads:
        raise ValueError(f"the model has no head {head!r}; it has {', '.join(heads)}.")
    return heads.index(head)


def _e0_row(
    config: ModelConfig, row: Sequence[float], e0s: Sequence[float] | Mapping[int, float] | Mapping[str, float]
) -> tuple[float, ...]:
    if not isinstance(e0s, Mapping):
        if len(e0s) != len(row):
            raise ValueError(f"e0s has {len(e0s)} values for {len(row)} elements ({names(config.elements)}).")
        e0s = dict(zip(config.elements, e0s, strict=True))
    table = e0s_from_table(e0s)
    if missing := set(table) - set(config.elements):
        raise ValueError(f"e0s has {names(sorted(missing))}, which the model does not know.")
    return tuple(table.get(number, value) for number, value in zip(config.elements, row, strict=True))


def _replaced(config: ModelConfig, **fields: Any) -> ModelConfig:
    """The configuration with other fields, checked again."""
    return ModelConfig(**{**config.model_dump(), **fields})
