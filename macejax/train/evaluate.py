"""A finished model on a set of structures: predictions, and errors where there are labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.config import LossConfig, Precision
from macejax.data.graph import Graph, model_graphs
from macejax.data.loader import Step
from macejax.data.pack import pack_all
from macejax.data.structure import Structure
from macejax.model.geometry import without_low
from macejax.model.model import Model, build
from macejax.train.loss import loss_terms
from macejax.train.metrics import ALL
from macejax.train.parallel import make_eval_step
from macejax.train.table import Table, error_table
from macejax.train.validate import Predicted, Validation, group_sizes, validate

PREDICTIONS = ("MACE_energy", "MACE_forces", "MACE_stress", "MACE_dipole", "MACE_polarizability")  # names in a file


class Evaluated(NamedTuple):
    """What `evaluate` found."""

    validation: Validation
    graphs: list[Graph]  # the structures, with the sum of the E0s of each


def evaluate(
    model: Model, structures: Sequence[Structure], *, dtype: str | Precision | None = None, nodes: int = 256, num_devices: int = 1
) -> Evaluated:
    """Predict structures with a model, many at a time.

    Args:
      model: config and parameters.
      structures: labelled or not.
      dtype: precision as `macejax.Precision.of` takes it, by default that of the parameters; float64 needs x64.
      nodes: atoms per device and batch.
      num_devices: local devices to use.

    Raises:
      DataError: a structure has an element that the model does not know.
    """
    config = model.config
    precision = Precision.of(dtype or str(jax.tree.leaves(model.params)[0].dtype))
    precision.require(jax.default_backend())
    dtype = jnp.dtype(precision.parameters)
    graphs = model_graphs(structures, config)
    loss = loss_terms(
        LossConfig(kind="weighted" if config.has_energies else "dipole")
    )  # only its errors are wanted, and they know no weights
    eval_step = make_eval_step(build(config, matmul_precision=precision.products).apply, loss, num_devices=num_devices)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), model.params)
    steps: Iterable[Step] = pack_all(graphs, nodes=nodes, num_devices=num_devices, dtype=dtype)
    if precision.geometry == "float32":
        steps = (step._replace(batch=without_low(step.batch)) for step in steps)
    return Evaluated(validate(eval_step, loss, params, steps, structures, keep_predictions=True), graphs)


def predictions(evaluated: Evaluated) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """For each structure what goes into its frame (MACE_energy, MACE_stress, MACE_dipole, MACE_polarizability) and into its columns
    (MACE_forces).

    Energies are total (eV, E0s included, in float64); stress is in ASE's sign (eV/Angstrom^3), and left out where the structure is not
    periodic. Dipole and polarizability are in the units of the model.
    """
    for graph, predicted in zip(evaluated.graphs, evaluated.validation.predicted, strict=True):
        yield _frame(graph, predicted), {} if predicted.forces is None else {"MACE_forces": predicted.forces}


def label_table(evaluated: Evaluated, structures: Sequence[Structure]) -> Table | None:
    """Table of errors by config_type; None where no structure has a label."""
    errors = evaluated.validation.errors
    if not any(value.count for value in errors[ALL].values()):
        return None
    return error_table({ALL: errors}, {ALL: group_sizes(structures)})


def _frame(graph: Graph, predicted: Predicted) -> dict[str, Any]:
    info: dict[str, Any] = {}
    if predicted.stress is not None:
        info["MACE_energy"] = predicted.energy + graph.e0
        if graph.pbc.any() and np.isfinite(predicted.stress).all():
            info["MACE_stress"] = predicted.stress
    moments = {"MACE_dipole": predicted.dipole, "MACE_polarizability": predicted.polarizability}
    return info | {name: value for name, value in moments.items() if value is not None}
