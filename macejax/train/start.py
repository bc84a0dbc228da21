"""Fine-tuning: the model that a run starts from, with the heads and the elements of the run, and the energies that it is wrong by."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from macejax.checkpoint.load import load_with_extra
from macejax.config import ConfigError, in_a_sentence
from macejax.config.start import StartConfig
from macejax.data.species import elements_of, names
from macejax.data.statistics import compositions, solve_e0s
from macejax.data.structure import DataError, Structure
from macejax.model.heads import select_elements, take_heads
from macejax.model.model import Model
from macejax.train.evaluate import evaluate


class Start(NamedTuple):
    """A model to start from."""

    model: Model  # as it was read
    name: str  # its file, or the name under which it is published
    head: str | None  # start.head
    extra: Mapping[str, Any]  # of its header: licence, source, ...

    def origin(self) -> dict[str, Any]:
        """What a model file made of it keeps: licence and source of those weights, and their digest."""
        kept = {name: value for name, value in self.extra.items() if name not in ("name", "epoch", "step", "mae_rmse")}
        return {**kept, "started_from": f"{Path(self.name).name}, weights of sha256 {digest(self.model.params)}"}

    def describe(self, heads: Sequence[str], elements: Sequence[int]) -> str:
        """For the reader of a log: what a run with these heads and elements starts from."""
        config, sources = self.model.config, _sources(self, heads)
        parts = [f"weights of {self.name}, {config.model}, cutoff {config.cutoff:g} Angstrom"]
        parts += [f"{head} starts as its {source}" for head, source in sources.items() if head != source]
        if gone := [head for head in config.heads if head not in sources.values()]:
            parts.append(f"without its head{'s' * (len(gone) > 1)} {', '.join(gone)}, which the data have not")
        if len(elements) < len(config.elements):
            parts.append(f"{len(elements)} of its {len(config.elements)} elements")
        return "; ".join(parts)


def read_start(config: StartConfig) -> Start | None:
    """The model to start from; None where the run starts from random weights.

    Raises:
      ConfigError: start.head is none of its heads, or it has tables in place of its radial networks.
      FileNotFoundError, FetchError, ModelFileError, TorchImportError: as `macejax.load`.
    """
    if config.model is None:
        return None
    model, extra = load_with_extra(config.model)
    if model.config.radial_table is not None:
        raise ConfigError(
            f"start.model: {config.model} has tables in place of radial networks, which cannot be trained: start from the model that they "
            f"were made of."
        )
    if config.head is not None and config.head not in model.config.heads:
        raise ConfigError(f"start.head: {config.model} has no head {config.head!r}; it has {', '.join(model.config.heads)}.")
    return Start(model, config.model, config.head, extra)


def fit_start(start: Start, heads: Sequence[str], elements: Sequence[int]) -> Model:
    """The model to start from, cut to the elements of a run, and with its heads.

    Args:
      start: the model.
      heads: of the run. One that the model has goes on with its own readouts, E0s, scale and shift, unless start.head names another for a
        single one; the others are copies of start.head, or of the only head of the model.
      elements: of the run, ascending.

    Raises:
      ConfigError: a head could be a copy of several, start.head has no effect, or the model takes no more heads.
      DataError: an element that the model does not know.
    """
    if missing := set(elements) - set(start.model.config.elements):
        raise DataError(
            f"start.model: {start.name} does not know {names(sorted(missing))}; it knows {names(start.model.config.elements)}. Take a "
            f"model that does, or leave those structures out."
        )
    sources = _sources(start, heads)
    try:
        return take_heads(select_elements(start.model, elements), sources)
    except ValueError as error:  # of a model of moments
        raise ConfigError(f"start.model: {start.name} cannot have the heads {', '.join(heads)}: {in_a_sentence(error)}") from error


def estimated_e0s(model: Model, head: str, structures: Sequence[Structure]) -> dict[int, float]:
    """Atomic number -> E0 (eV) of a head: its own, moved by what fits best, by least squares on the compositions, the differences of the
    labelled energies and those that the model predicts. Where compositions do not determine them, this is the least move.

    For a level of theory with other energies of atoms than those of the model, whose isolated atoms nobody computed (--E0s estimated of
    mace_run_train).

    Raises:
      DataError: no structure has an energy.
    """
    alone = take_heads(model, {head: head})
    labelled = [structure for structure in structures if not np.isnan(structure.energy)]
    if not labelled:
        raise DataError("E0s cannot be estimated: no structure has an energy.")
    # In float64, whatever the run computes in, so that a run which goes on elsewhere finds the same ones.
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore", UserWarning)  # of the structures: they are said when the run's own graphs are built
        found = evaluate(alone, labelled, dtype="float64")
    wrong = [graph.energy - predicted.energy for graph, predicted in zip(found.graphs, found.validation.predicted, strict=True)]
    if not np.isfinite(wrong).all():
        worst = labelled[int(np.argmin(np.isfinite(wrong)))]
        raise DataError(f"{worst.source}: the model to start from predicts no finite energy: are there atoms at one point?")
    present = elements_of(labelled)
    moves = solve_e0s(compositions(labelled, present), np.asarray(wrong), present, "moves of the E0s")
    # Rounded, for the same reason: the last digits are those of the device.
    own = zip(model.config.elements, alone.config.e0_table[0], strict=True)
    return {number: round(e0 + moves.get(number, 0.0), 6) for number, e0 in own}


def digest(params: Any) -> str:
    """Of the names and numbers of parameters."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def _sources(start: Start, heads: Sequence[str]) -> dict[str, str]:
    """Head of the run -> head of the model that it starts as."""
    known = start.model.config.heads
    copied = start.head if start.head is not None or len(known) > 1 else known[0]
    if len(heads) == 1 and copied is not None:  # the head of data that have a single one may be called otherwise
        return {heads[0]: copied}
    strange = [head for head in heads if head not in known]
    if strange and copied is None:
        raise ConfigError(
            f"start.head: {start.name} has the heads {', '.join(known)}, none of which is called {strange[0]!r}, as the data are: say "
            f"which one it starts as."
        )
    if start.head is not None and not strange:
        raise ConfigError(f"start.head has no effect: {start.name} has every head of the data ({', '.join(heads)}). Leave it out.")
    return {head: head if head in known else str(copied) for head in heads}
