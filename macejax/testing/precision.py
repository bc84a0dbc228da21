"""What a precision policy, or a table of radial functions, costs: energies and forces beside those of the plain model in float64."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from macejax.config import ConfigError, Precision
from macejax.data.graph import Graph, model_graphs
from macejax.data.pack import pack_all
from macejax.data.structure import DataError, Structure
from macejax.model.geometry import without_low
from macejax.model.model import Model, build
from macejax.potential import predict


class PrecisionError(NamedTuple):
    """Errors against float64. Forces are compared component by component."""

    energy_max: float  # eV/atom, of the interaction energy of a structure
    energy_rms: float  # eV/atom
    forces_max: float  # of rms_force
    forces_rms: float  # of rms_force
    rms_force: float  # eV/Angstrom, root mean square of the components in float64

    def __str__(self) -> str:
        return (
            f"energy {1000 * self.energy_rms:.2g} meV/atom rms, {1000 * self.energy_max:.2g} largest; "
            f"forces {self.forces_rms:.2g} of the rms force ({self.rms_force:.3g} eV/Å) rms, {self.forces_max:.2g} largest"
        )


def precision_error(
    model: Model, structures: Sequence[Structure], precision: str | Precision, *, exact: Model | None = None, nodes: int = 256
) -> PrecisionError:
    """Errors of a model under a precision policy, on structures of one's own.

    Args:
      model: config and parameters.
      structures: what to compare on; labels play no role.
      precision: the policy, or its name.
      exact: the model whose float64 results are right, where it is another: that of which `model` is the table.
      nodes: atoms of a batch.

    Raises:
      ConfigError: this device would not follow the policy; a model without energies; structures without forces to speak of.
      DataError: no structures, or an element that the model does not know.
    """
    policy = Precision.of(precision)
    policy.require(jax.default_backend())
    if not model.config.has_energies:
        raise ConfigError("errors of energies and forces are asked of a model that predicts dipoles alone.")
    if not structures:
        raise DataError("there are no structures to compare on.")
    graphs = model_graphs(structures, model.config)
    right, found = (_evaluate(one, graphs, how, nodes) for one, how in ((exact or model, Precision()), (model, policy)))
    energy, forces = (np.abs(a - b) for a, b in zip(found, right, strict=True))
    rms = _rms(right[1])
    if not rms > 0:
        raise ConfigError("all forces on these structures vanish, so that errors relative to them mean nothing: displace the atoms.")
    return PrecisionError(float(energy.max()), _rms(energy), float(forces.max()) / rms, _rms(forces) / rms, rms)


def _evaluate(model: Model, graphs: Sequence[Graph], policy: Precision, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Energies per atom [structures] (eV) and forces [atoms, 3] (eV/Angstrom), in an order that is the same for all policies."""
    dtype = np.dtype(policy.parameters)
    compiled = jax.jit(partial(predict, build(model.config, matmul_precision=policy.products).apply))
    energies, forces = [], []
    for step in pack_all(graphs, nodes=nodes, dtype=dtype):
        batch = step.batch if policy.geometry == "float64" else without_low(step.batch)
        with jax.enable_x64(dtype == np.float64):
            params: Any = jax.tree.map(lambda x: jnp.asarray(x, dtype), model.params)
            found = jax.device_get(compiled(params, batch))
        real, mask = np.asarray(batch.globals["mask"]), np.asarray(batch.nodes["mask"])
        of_graph = np.asarray(batch.nodes["graph"])[mask]
        total = np.bincount(of_graph, np.asarray(found.node_energy, np.float64)[mask], len(real))[real]
        energies.append(total / np.asarray(batch.n_node)[real])
        forces.append(np.asarray(found.forces, np.float64)[mask])
    return np.concatenate(energies), np.concatenate(forces)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
