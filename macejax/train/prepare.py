"""Files -> subsets of structures, statistics, the model's configuration, graphs: everything before the first step."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from macejax.config import ConfigError, DataConfig, ModelConfig, TrainConfig
from macejax.config.model import ModelSection, check_head_names
from macejax.config.predicts import PREDICTS
from macejax.data.graph import Graph, build_graphs
from macejax.data.inputs import require_whole_charges
from macejax.data.labels import Keys
from macejax.data.order import order
from macejax.data.read import read
from macejax.data.species import elements_of, names
from macejax.data.statistics import (
    ISOLATED,
    average_neighbors,
    e0_list,
    e0s_average,
    e0s_from_isolated,
    e0s_from_table,
    energy_scale,
    energy_shift,
    split_isolated,
)
from macejax.data.structure import DataError, Structure
from macejax.model.model import Model, init_model
from macejax.train.start import Start, digest, estimated_e0s, fit_start

SUBSETS = ("train", "valid", "test")


class Prepared(NamedTuple):
    """What a run works on."""

    model: ModelConfig
    structures: Mapping[str, Sequence[Structure]]  # train, valid and, if there is one, test
    graphs: Mapping[str, Sequence[Graph]]  # the same structures
    fingerprint: str  # of the training and validation structures and of everything derived from them
    start: Start | None  # model that it starts from; None for random weights
    params: Any  # weights to start from: those of that model, for the heads and elements of the run


def prepare(config: TrainConfig, warn: Callable[[str], None], start: Start | None = None) -> Prepared:
    """Read the data, split them, derive what the model takes from them, and build all graphs.

    Args:
      config: of the run.
      warn: called with a sentence about what is suspicious, but no error.
      start: model to start from, whose architecture and constants are kept; None for that of the section `model`.

    Raises:
      ConfigError: an option that fits neither data nor model.
      DataError: a file, frame, label, element, head or input that cannot be used; no energies of isolated atoms.
    """
    architecture: ModelSection | ModelConfig = config.model if start is None else start.model.config
    subsets = _read_subsets(config.data)
    isolated, _ = split_isolated(subsets["train"])
    if not config.data.keep_isolated_atoms:
        subsets = {name: split_isolated(structures)[1] for name, structures in subsets.items()}
    heads = _heads(config, architecture, subsets, warn)
    config.data.require_heads(heads)
    _require_config_types(subsets["train"], config.data.config_type_weights)
    subsets = _with_valid(subsets, config)
    subsets["train"] = _weighted(subsets["train"], config.data.config_type_weights)
    elements = _elements(config, subsets)
    of_heads = [_of_head(subsets["train"], head, heads) for head in heads]
    if "dipole" in PREDICTS[architecture.model]:
        for structures in subsets.values():
            require_whole_charges(structures)
    begun = None if start is None else fit_start(start, heads, elements)
    if begun is not None and "average" in config.data.e0s_names():
        warn("data.e0s is average, which takes up what atoms gain by binding, and the model to start from adds that again: try estimated.")
    e0s, scales, shifts = [], [], []
    for head, structures in zip(heads, of_heads, strict=True):
        with _of_which_head(head, heads):
            table = _e0s(config, architecture, head, elements, _of_head(isolated, head, heads), structures, begun)
            e0s.append(tuple(e0_list(table, elements)))
            if begun is None:
                scale, shift = _scale_shift(config.model, structures, elements, table)
                scales.append(scale)
                shifts.append(shift)
    options: dict[str, Any] = {"heads": heads, "embeddings": architecture.joint_embedding, "edge_folder": config.data.edge_folder}
    graphs = {name: build_graphs(structures, elements, architecture.cutoff, e0s, **options) for name, structures in subsets.items()}
    if begun is not None:
        model = ModelConfig(**{**begun.config.model_dump(), "e0s": _by_head(e0s)})
        return Prepared(model, subsets, graphs, _fingerprint(model, graphs, digest(begun.params)), start, begun.params)
    model = config.model.resolve(
        heads=heads,
        elements=elements,
        e0s=_by_head(e0s),
        avg_num_neighbors=average_neighbors(graphs["train"]),
        scale=_by_head(scales),
        shift=_by_head(shifts),
    )
    return Prepared(model, subsets, graphs, _fingerprint(model, graphs), None, None)


def first_params(prepared: Prepared, config: TrainConfig) -> Any:
    """Weights before the first step, in the precision of the run: those of the model to start from, or random ones."""
    dtype = jnp.dtype(config.run.precision.parameters)
    if prepared.params is None:
        return init_model(prepared.model, jax.random.key(config.run.seed), dtype).params
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), prepared.params)


def _read_subsets(config: DataConfig) -> dict[str, list[Structure]]:
    keys = Keys(**config.keys.model_dump())
    files = {"train": config.train, "valid": config.valid, "test": config.test}
    return {name: [structure for path in paths for structure in read(path, keys)] for name, paths in files.items() if paths is not None}


def _with_valid(subsets: dict[str, list[Structure]], config: TrainConfig) -> dict[str, list[Structure]]:
    """The subsets in their usual order; without a valid file, a seeded random part of each head's training set leaves it to validate."""
    train = subsets["train"]
    if "valid" not in subsets:
        chosen = _draw([structure.head for structure in train], config.data.valid_fraction, config.run.seed)
        if not chosen.any():
            raise DataError(
                f"{', '.join(config.data.train)}: {len(train)} structures are too few to set one aside for validation; name a valid file."
            )
        subsets["valid"] = [structure for structure, valid in zip(train, chosen, strict=True) if valid]
        subsets["train"] = [structure for structure, valid in zip(train, chosen, strict=True) if not valid]
    for name in (name for name in SUBSETS if name in subsets):
        if not subsets[name]:
            raise DataError(f"{', '.join(getattr(config.data, name) or ())}: nothing is left for {name} without the isolated atoms.")
    return {name: subsets[name] for name in SUBSETS if name in subsets}


def _draw(heads: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which structures [N] bool validate: of each head this fraction of its own, at least one, and none of a head that has no other."""
    drawn = order(len(heads), seed, 0)
    chosen = np.zeros(len(heads), bool)
    for head in dict.fromkeys(heads):
        own = [index for index in drawn if heads[index] == head]
        chosen[own[: max(int(fraction * len(own)), 1) if len(own) > 1 else 0]] = True
    return chosen


def _heads(
    config: TrainConfig, architecture: ModelSection | ModelConfig, subsets: Mapping[str, Sequence[Structure]], warn: Callable[[str], None]
) -> tuple[str, ...]:
    """Heads of the model: those that the configuration names, or those of the training set, in the order in which they come."""
    found = list(dict.fromkeys(structure.head for structure in subsets["train"]))
    heads = tuple(found) if config.model.heads == "auto" else tuple(config.model.heads)
    try:
        check_head_names(heads)
    except ValueError as error:
        raise DataError(f"{', '.join(config.data.train)}: {error}") from error
    every = [structure for structures in subsets.values() for structure in structures]
    there = {structure.head for structure in every}
    if len(heads) == 1 and len(there) > 1:  # the head of data that have a single one may be called otherwise
        raise DataError(
            f"the model has the head {heads[0]!r}, but there are structures of {', '.join(sorted(there - {*heads}))}: set data.keys.head "
            f"to null to take all as one, name all heads in model.heads, or leave those structures out."
        )
    if len(heads) > 1:
        if missing := [head for head in heads if head not in found]:
            raise DataError(
                f"{', '.join(config.data.train)}: no training structure has the head {missing[0]!r}; there are {', '.join(found)}."
            )
        warn(f"the model gets {len(heads)} heads ({', '.join(heads)}), each with its own readouts, E0s, scale and shift.")
    embedded = {spec.name for spec in architecture.joint_embedding}
    if architecture.model == "AtomicDielectricMACE":
        embedded.add("total_charge")  # to which its charges sum
    for field, meaning in (("total_charge", "total charge"), ("total_spin", "spin multiplicity")):
        values = sorted({getattr(structure, field) for structure in every})
        if len(values) > 1 and field not in embedded:
            hint = " (model.joint_embedding makes it an input)" if architecture is config.model else ""
            warn(
                f"the {meaning} differs between structures ({values[0]:g} to {values[-1]:g}); the model does not know of it and will "
                f"learn a mean{hint}."
            )
    return heads


def _by_head(values: Sequence[Any]) -> Any:
    """Values of the heads; of a single one, its own."""
    return values[0] if len(values) == 1 else tuple(values)


def _of_head(structures: Sequence[Structure], head: str, heads: Sequence[str]) -> list[Structure]:
    """The structures that a head learns: those of its name, or all where it is the only one."""
    return [structure for structure in structures if len(heads) == 1 or structure.head == head]


def _require_config_types(structures: Sequence[Structure], factors: Mapping[str, float]) -> None:
    there = {structure.config_type for structure in structures}
    if unknown := factors.keys() - there:
        raise DataError(
            f"data.config_type_weights names {min(unknown)!r}, which no training structure has as config_type ({', '.join(sorted(there))})."
        )


def _weighted(structures: Sequence[Structure], factors: Mapping[str, float]) -> list[Structure]:
    return [structure._replace(weight=structure.weight * factors.get(structure.config_type, 1.0)) for structure in structures]


def _elements(config: TrainConfig, subsets: Mapping[str, Sequence[Structure]]) -> tuple[int, ...]:
    found = elements_of([*subsets["train"], *subsets["valid"]])
    if config.model.elements == "auto":
        return found
    if missing := set(found) - set(config.model.elements):
        raise DataError(f"model.elements lacks {names(sorted(missing))}, which the data contain.")
    return tuple(int(number) for number in config.model.elements)


def _e0s(
    config: TrainConfig,
    architecture: ModelSection | ModelConfig,
    head: str,
    elements: tuple[int, ...],
    isolated: Sequence[Structure],
    train: Sequence[Structure],
    begun: Model | None,
) -> dict[int, float]:
    """Atomic number -> energy of the isolated atom (eV) of a head, from its structures; 0 for a model without energies."""
    source = config.data.e0s_of(head)
    if "energy" not in PREDICTS[architecture.model]:
        if source != "isolated":
            raise ConfigError(f"data.e0s has no effect on {architecture.model}, which predicts no energies: leave it out.")
        return dict.fromkeys(elements, 0.0)
    if source == "average":
        return e0s_average(train, elements)
    if source == "foundation":
        own = begun.config
        return dict(zip(own.elements, own.e0_table[own.heads.index(head)], strict=True))
    if source == "estimated":
        return estimated_e0s(begun, head, train)
    if source != "isolated":
        return e0s_from_table(cast(Mapping[str, float], source))
    if not isolated:
        raise DataError(
            f"{', '.join(config.data.train)}: no frame has config_type={ISOLATED}, so the energies of the isolated atoms are unknown; "
            f"set data.e0s to {'estimated or foundation' if begun else 'average'}, or to a table such as {{H: -13.6}}."
        )
    return e0s_from_isolated(isolated)


def _scale_shift(
    model: ModelSection, structures: Sequence[Structure], elements: tuple[int, ...], e0s: Mapping[int, float]
) -> tuple[float, float]:
    """Scale and shift (eV) of a head, as far as the model takes them from the data; else 1 and 0, which nothing reads."""
    moments = "dipole" in PREDICTS[model.model]
    scale = 1.0 if moments or model.scale != "auto" else energy_scale(structures, elements, e0s, model.scaling)
    shifts = model.model == "ScaleShiftMACE" and model.shift == "auto"
    return scale, energy_shift(structures, elements, e0s, model.scaling) if shifts else 0.0


@contextmanager
def _of_which_head(head: str, heads: Sequence[str]) -> Iterator[None]:
    """Errors and warnings within name the head, where there are several."""
    if len(heads) == 1:
        yield
        return
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            yield
    except DataError as error:
        raise DataError(f"head {head!r}: {error}") from error
    for warning in said:
        warnings.warn(f"head {head!r}: {warning.message}", stacklevel=4)


def _fingerprint(model: ModelConfig, graphs: Mapping[str, Sequence[Graph]], weights: str = "") -> str:
    """Digest of what training depends on beside its configuration, to see at resume that it is the same; `weights` is that of those that it
    starts from.
    """
    found = hashlib.sha256(model.model_dump_json().encode() + weights.encode())
    for name in ("train", "valid"):
        for graph in graphs[name]:
            fields = {field: value for field, value in graph._asdict().items() if field not in ("source", "inputs", "weights")}
            for field, part in [*fields.items(), *sorted(graph.inputs.items()), *sorted(graph.weights.items())]:
                found.update(field.encode() + np.asarray(np.nan if part is None else part).tobytes())
        found.update(name.encode())
    return found.hexdigest()
