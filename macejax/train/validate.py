"""Predictions of a whole data set, and their errors."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from macejax.data.graph import Graph
from macejax.data.loader import Step
from macejax.data.structure import Structure
from macejax.potential import Prediction
from macejax.train.loss import Loss
from macejax.train.metrics import ALL, Errors, gather_sums, mean_loss, summarize
from macejax.train.parallel import Evaluation
from macejax.train.report import Parity

IN_FLIGHT = 4  # steps that are dispatched before the first of them is waited for


class Predicted(NamedTuple):
    """Prediction for one structure, atoms in their own order; float64. What the model does not predict is NaN or None."""

    energy: float = math.nan  # eV, interaction energy: without E0s
    node_energy: np.ndarray | None = None  # [N] eV, without E0s
    forces: np.ndarray | None = None  # [N, 3] eV/Angstrom
    stress: np.ndarray | None = None  # [3, 3] eV/Angstrom^3, NaN where the cell is singular
    dipole: np.ndarray | None = None  # [3]
    polarizability: np.ndarray | None = None  # [3, 3]


class Validation(NamedTuple):
    """How well parameters do on a data set."""

    loss: float
    terms: dict[str, float]  # mean of each term of the loss
    errors: dict[str, dict[str, Errors]]  # group ("all" and every config_type) -> property -> errors
    predicted: list[Predicted]  # one per structure, in their order; empty where they were not asked for


def validate(
    eval_step: Callable[[Any, Any], Evaluation],
    loss: Loss,
    params: Any,
    steps: Iterable[Step],
    structures: Sequence[Structure],
    *,
    keep_predictions: bool = False,
) -> Validation:
    """Loss and errors over a data set, each structure counted once.

    Args:
      eval_step: from `make_eval_step`.
      loss: the one that `eval_step` was made with.
      params: parameters to evaluate.
      steps: batches with a leading axis of devices, from `pack_all`.
      structures: the data set, positions in which the batches give as `index`.
      keep_predictions: return them too.
    """
    results: list[Evaluation] = []
    ahead: deque[Evaluation] = deque()
    sizes: list[np.ndarray] = []
    for step in steps:
        sizes.append(step.batch.n_node)
        result = eval_step(params, step.batch)
        ahead.append(result if keep_predictions else result._replace(prediction=None))  # what is not needed does not come to the host
        if len(ahead) > IN_FLIGHT:
            results.append(jax.device_get(ahead.popleft()))
    results.extend(jax.device_get(list(ahead)))
    value, terms = mean_loss(loss, (result.terms for result in results))
    sums = gather_sums(((result.errors, result.index) for result in results), len(structures))
    found = (
        dict(entry for n_node, result in zip(sizes, results, strict=True) for entry in _predictions(n_node, result))
        if keep_predictions
        else {}
    )
    errors = summarize(sums, groups_of(structures))
    return Validation(value, terms, errors, [found[number] for number in sorted(found)])


def parity(predicted: Sequence[Predicted], graphs: Sequence[Graph]) -> Parity:
    """Labels beside predictions, those without a label left out."""
    pairs = list(zip(graphs, predicted, strict=True))
    energies = [(graph.energy / len(graph.species), entry.energy / len(graph.species)) for graph, entry in pairs]
    columns = [np.reshape(energies, (-1, 2))]
    for name in Parity._fields[1:]:
        labelled = [(getattr(graph, name), getattr(entry, name)) for graph, entry in pairs]
        known = [np.stack([label.ravel(), value.ravel()], axis=1) for label, value in labelled if label is not None and value is not None]
        columns.append(np.concatenate([np.zeros((0, 2)), *known]))
    return Parity(*(values[np.isfinite(values).all(axis=1)] for values in columns))


def groups_of(structures: Sequence[Structure]) -> list[str]:
    """Group of every structure in a table of errors: its config_type, after its head where there are several."""
    several = len({structure.head for structure in structures}) > 1
    names = [f"{structure.head}, {structure.config_type}" if several else structure.config_type for structure in structures]
    return [f"config_type {name}" if name == ALL else name for name in names]  # `all` is the line of all of them


def group_sizes(structures: Sequence[Structure]) -> dict[str, int]:
    """Number of structures in each group of `Validation.errors`."""
    names = groups_of(structures)
    return {**{name: names.count(name) for name in sorted(set(names))}, ALL: len(names)}


def _predictions(n_node: np.ndarray, result: Evaluation) -> Iterator[tuple[int, Predicted]]:
    """(number in the data set, prediction) of every structure of a batch with these sizes, and a leading axis of devices."""
    for device, row in np.argwhere(result.index >= 0):
        start = int(np.sum(n_node[device, :row]))
        atoms = slice(start, start + int(n_node[device, row]))
        prediction = jax.tree.map(itemgetter(int(device)), result.prediction)
        yield int(result.index[device, row]), _of_structure(prediction, int(row), atoms)


def _of_structure(prediction: Prediction, row: int, atoms: slice) -> Predicted:
    """Prediction for the structure `row` of a batch, which has those atoms."""
    found = Predicted()
    if prediction.energy is not None:
        energy, node_energy, forces, _, stress = (np.asarray(values, np.float64) for values in prediction[:5])
        found = Predicted(float(energy[row]), node_energy[atoms], forces[atoms], stress[row])
    if (moments := prediction.moments) is not None:
        tensor = None if moments.polarizability is None else np.asarray(moments.polarizability[row], np.float64)
        found = found._replace(dipole=np.asarray(moments.dipole[row], np.float64), polarizability=tensor)
    return found
