"""Errors of a data set: sums per structure on the device, means on the host, the same whatever the batches were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jraph
import numpy as np

from macejax.model.geometry import sum_per_graph
from macejax.potential import Prediction
from macejax.train.loss import Loss, Residual, residuals

ALL = "all"


class ErrorSums(NamedTuple):
    """Sums over the labels of one property in each structure. Every array is [G], or one row per structure of a data set."""

    count: Any  # labels present: 1 for an energy, 3 per atom, 9 for a stress
    absolute: Any  # of abs(error)
    square: Any  # of error^2
    label_square: Any  # of label^2
    maximum: Any  # largest abs(error)


class Errors(NamedTuple):
    """Errors of one property over a group of structures, in the unit of the property; NaN where there is no label."""

    mae: float
    rmse: float
    relative_rmse: float  # rmse / root mean square of the labels
    maximum: float
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


def error_sums(prediction: Prediction, batch: jraph.GraphsTuple) -> dict[str, ErrorSums]:
    """Error sums of each structure of a batch, of what the model predicts: energy (eV), and energy_per_atom, forces, stress,
    virials_per_atom; dipole_per_atom, polarizability_per_atom. Weights do not enter.
    """
    found = residuals(prediction, batch)
    sums = {f"{name}_per_atom": _sums(found[name]) for name in ("dipole", "polarizability") if name in found}
    if "energy" not in found:
        return sums
    num_atoms = jnp.maximum(batch.n_node, 1).astype(prediction.energy.dtype)
    per_atom = found["energy"]
    total = per_atom._replace(error=per_atom.error * num_atoms, label=per_atom.label * num_atoms)
    return {
        "energy": _sums(total),
        "energy_per_atom": _sums(per_atom),
        "forces": _force_sums(found["forces"], batch),
        "stress": _sums(found["stress"]),
        "virials_per_atom": _sums(found["virials"]),
        **sums,
    }


def gather_sums(parts: Iterable[tuple[dict[str, ErrorSums], Any]], num_structures: int) -> dict[str, ErrorSums]:
    """Error sums of a data set in float64, one row per structure, from those of its batches.

    The rows stand in the order of the data set, so every number made of them is the same whatever the batch size, packing and number of
    devices.

    Args:
      parts: of each batch the error sums and `globals["index"]`, -1 on padding; any leading axes.
      num_structures: how many there are.

    Raises:
      ValueError: a structure came twice or not at all.
    """
    tables: dict[str, ErrorSums] = {}
    seen = np.zeros(num_structures, np.int64)
    for sums, index in parts:
        rows = np.asarray(index).reshape(-1)
        real = rows >= 0
        np.add.at(seen, rows[real], 1)
        for name, part in sums.items():
            table = tables.setdefault(name, ErrorSums(*(np.zeros(num_structures) for _ in ErrorSums._fields)))
            for column, values in zip(table, part, strict=True):
                column[rows[real]] = np.asarray(values, np.float64).reshape(-1)[real]
    if np.any(seen != 1):
        wrong = int(np.flatnonzero(seen != 1)[0])
        raise ValueError(
            f"An evaluation must meet each of the {num_structures} structures once, but it met number {wrong} {seen[wrong]} times."
        )
    return tables


def summarize(sums: dict[str, ErrorSums], groups: Sequence[str] | None = None) -> dict[str, dict[str, Errors]]:
    """Group -> property -> errors, from the sums of a data set.

    Args:
      sums: rows per structure, from `gather_sums`.
      groups: name of the group of each structure, its config_type for instance. The group "all" is always there, and first.
    """
    names = np.asarray([] if groups is None else groups, dtype=object)
    chosen: dict[str, Any] = {ALL: slice(None)}
    chosen.update({str(name): names == name for name in sorted(set(names))})
    return {
        group: {name: _errors(ErrorSums(*(column[rows] for column in table))) for name, table in sums.items()}
        for group, rows in chosen.items()
    }


def mean_loss(loss: Loss, parts: Iterable[dict[str, tuple[Any, Any]]]) -> tuple[float, dict[str, float]]:
    """Loss of a whole data set and the mean of each term, from numerators and counts of its batches, of any shape; summed in float64."""
    totals = {name: np.zeros(2) for name in loss.weights}
    for terms in parts:
        for name, pair in terms.items():
            totals[name] += [np.sum(np.asarray(x, np.float64)) for x in pair]
    means = {name: float(numerator / max(count, 1)) for name, (numerator, count) in totals.items()}
    return sum(weight * means[name] for name, weight in loss.weights.items()), means


def _sums(residual: Residual) -> ErrorSums:
    """Sums over all axes but the first."""
    present, absolute, square, label_square = (
        x.reshape(x.shape[0], -1)
        for x in (residual.present, jnp.abs(residual.error), jnp.square(residual.error), jnp.square(residual.label))
    )
    count, total, squares, label_squares = (jnp.sum(x, axis=1) for x in (present, absolute, square, label_square))
    return ErrorSums(count, total, squares, label_squares, jnp.max(absolute, axis=1))


def _force_sums(residual: Residual, batch: jraph.GraphsTuple) -> ErrorSums:
    node = _sums(residual)  # rows are atoms
    largest = jnp.zeros(batch.n_node.shape, node.maximum.dtype).at[batch.nodes["graph"]].max(node.maximum)
    count, total, squares, label_squares = (sum_per_graph(column.astype(node.maximum.dtype), batch) for column in node[:4])
    return ErrorSums(count, total, squares, label_squares, largest)


def _errors(sums: ErrorSums) -> Errors:
    count = int(round(float(np.sum(sums.count))))
    if count == 0:
        return Errors(np.nan, np.nan, np.nan, np.nan, 0)
    square, label_square = float(np.sum(sums.square)), float(np.sum(sums.label_square))
    relative = np.sqrt(square / label_square) if label_square > 0 else np.nan
    return Errors(float(np.sum(sums.absolute)) / count, float(np.sqrt(square / count)), float(relative), float(np.max(sums.maximum)), count)
