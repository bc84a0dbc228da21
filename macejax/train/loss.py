"""Losses: per term a sum over labels and the number of labels, so that the mean is exact whatever falls on which device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import optax

from macejax.config import LossConfig
from macejax.potential import Prediction

# Conditional Huber of the universal loss: |F| of the label (eV/Angstrom) below each bound, and the factor on delta there.
FORCE_BOUNDS = (100.0, 200.0, 300.0)
DELTA_FACTORS = (1.0, 0.7, 0.4, 0.1)


class Residual(NamedTuple):
    """One property of a batch, prediction against label. Arrays are [G, ...] or, for forces, [N, 3]."""

    error: jax.Array  # prediction - label; 0 where there is no label
    label: jax.Array  # 0 where there is none
    present: jax.Array  # bool, shape of error: there is a label
    weight: jax.Array  # weight of the structure, broadcasts against error
    label_weight: jax.Array  # weight of this property in the structure, broadcasts against error


Kernel = Callable[[Residual], tuple[jax.Array, jax.Array]]  # -> the terms of the sum, and which of them count


class Loss(NamedTuple):
    """sum over terms t of weights[t] * numerator_t / count_t."""

    weights: Mapping[str, float]
    terms: Callable[[Prediction, jraph.GraphsTuple], dict[str, tuple[jax.Array, jax.Array]]]  # t -> (numerator [], count [])


def loss_terms(config: LossConfig) -> Loss:
    """The loss that `config` describes.

    With e = prediction - label, w the weight of the structure, v that of the property in the structure, n the number of atoms and H the
    Huber function of width huber_delta, the numerators are sums over labels of

    | kind | energy | forces | stress | virials |
    |---|---|---|---|---|
    | weighted, ef | w v (e/n)^2 | w v e^2 | | |
    | forces_only | | w v e^2 | | |
    | stress | w v (e/n)^2 | w v e^2 | w v e^2 | |
    | virials | w v (e/n)^2 | w v e^2 | | w v (e/n)^2 |
    | huber | w v H(e/n) | w v H(e) | w v H(e) | |
    | universal | w H(v e/n) | w H'(v e), narrower where the forces are large | w H(v e) | |
    | l1l2 | w v abs(e)/n | w v norm(e), per atom | | |
    | energy_forces_dipole | w v (e/n)^2 | w v e^2 | | |

    and, of the dipole, 100 w v (e/n)^2 in dipole and energy_forces_dipole, w v (e/n)^2 in dipole_polar, which has w v (e/n)^2 of the
    polarizability too; and the counts are labels present: structures, or components (atoms in l1l2). A label of weight 0 is no label. These
    are mace-torch's losses (mace/modules/loss.py) where every label is there and has a weight, and differ from them in this: mace-torch's
    mean runs over missing labels too, so they weaken the term; its huber knows no weights and trains missing labels towards zero; its
    universal ignores w, its l1l2 both weights of forces, its terms of dipoles and polarizabilities all weights.

    A term whose weight in `config` is 0 is left out.
    """
    huber = partial(_huber, config.huber_delta)
    universal = partial(_universal, config.huber_delta)
    squares: dict[str, Kernel] = {"energy": _square, "forces": _square}
    kinds: dict[str, dict[str, Kernel]] = {
        "weighted": squares,
        "ef": squares,
        "forces_only": {"forces": _square},
        "stress": {**squares, "stress": _square},
        "virials": {**squares, "virials": _square},
        "huber": {"energy": huber, "forces": huber, "stress": huber},
        "universal": {"energy": universal, "forces": partial(_universal_forces, config.huber_delta), "stress": universal},
        "l1l2": {"energy": _absolute, "forces": _norm},
        "dipole": {"dipole": _hundred_squares},
        "dipole_polar": {"dipole": _square, "polarizability": _square},
        "energy_forces_dipole": {**squares, "dipole": _hundred_squares},
    }
    kernels = kinds[config.kind]
    every = {
        "energy": config.energy_weight,
        "forces": config.forces_weight,
        "stress": config.stress_weight,
        "virials": config.virials_weight,
        "dipole": config.dipole_weight,
        "polarizability": config.polarizability_weight,
    }
    weights = {name: every[name] for name in kernels if every[name] > 0}
    if not weights:
        raise ValueError(
            f"The loss {config.kind!r} has weight 0 on each of its terms ({', '.join(kernels)}): there is nothing to train on."
        )

    def terms(prediction: Prediction, batch: jraph.GraphsTuple) -> dict[str, tuple[jax.Array, jax.Array]]:
        errors = residuals(prediction, batch)
        return {name: _reduce(kernels[name], errors[name]) for name in weights}

    return Loss(weights, terms)


def combine(loss: Loss, numerators: Mapping[str, jax.Array], counts: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and the mean of each term, all []. A term without labels is 0."""
    means = {name: numerators[name] / jnp.maximum(counts[name], 1).astype(numerators[name].dtype) for name in loss.weights}
    return sum(weight * means[name] for name, weight in loss.weights.items()), means


def residuals(prediction: Prediction, batch: jraph.GraphsTuple) -> dict[str, Residual]:
    """Residuals of what the model predicts: energy per atom [G], forces [N, 3], stress [G, 3, 3] and virials per atom [G, 3, 3], in eV and
    Angstrom; dipole per atom [G, 3] and polarizability per atom [G, 3, 3], in the units of their labels.
    """
    labels, moments = batch.globals, prediction.moments
    dtype = labels["weight"].dtype
    num_atoms = jnp.maximum(batch.n_node, 1).astype(dtype)

    def per_structure(name: str, predicted: jax.Array, divisor: jax.Array | None) -> Residual:
        def shaped(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape + (1,) * (predicted.ndim - 1))

        present = jnp.broadcast_to(shaped(labels[f"{name}_mask"] & labels["mask"]), predicted.shape)
        scale = jnp.ones_like(num_atoms) if divisor is None else divisor
        label = jnp.where(present, labels[name], 0) / shaped(scale)
        error = jnp.where(present, predicted / shaped(scale) - label, 0)
        return Residual(error, label, present, shaped(labels["weight"]), shaped(labels[f"{name}_weight"]))

    found = {}
    if prediction.energy is not None:
        found["energy"] = per_structure("energy", prediction.energy, num_atoms)
        found["forces"] = _force_residual(prediction.forces, batch)
        found["stress"] = per_structure("stress", prediction.stress, None)
        found["virials"] = per_structure("virials", -prediction.strain_derivative, num_atoms)
    if moments is not None:
        found["dipole"] = per_structure("dipole", moments.dipole, num_atoms)
        if moments.polarizability is not None:
            found["polarizability"] = per_structure("polarizability", moments.polarizability, num_atoms)
    return found


def _force_residual(predicted: jax.Array, batch: jraph.GraphsTuple) -> Residual:
    labels, node = batch.globals, batch.nodes["graph"]
    present = batch.nodes["forces_mask"] & batch.nodes["mask"][:, None]
    label = jnp.where(present, batch.nodes["forces"], 0)
    weight, label_weight = (labels[name][node][:, None] for name in ("weight", "forces_weight"))
    return Residual(jnp.where(present, predicted - label, 0), label, present, weight, label_weight)


def _reduce(kernel: Kernel, residual: Residual) -> tuple[jax.Array, jax.Array]:
    weighted = residual._replace(present=residual.present & (residual.weight * residual.label_weight > 0))
    values, counted = kernel(weighted)
    # Masked by where, not by the weight: inf * 0 would be NaN, and a weight of 0 must be bitwise the same as no label.
    return jnp.sum(jnp.where(counted, values, 0)), jnp.sum(counted)


def _square(r: Residual) -> tuple[jax.Array, jax.Array]:
    return r.weight * r.label_weight * jnp.square(r.error), r.present


def _hundred_squares(r: Residual) -> tuple[jax.Array, jax.Array]:
    return 100 * r.weight * r.label_weight * jnp.square(r.error), r.present


def _absolute(r: Residual) -> tuple[jax.Array, jax.Array]:
    return r.weight * r.label_weight * jnp.abs(r.error), r.present


def _norm(r: Residual) -> tuple[jax.Array, jax.Array]:
    weight = (r.weight * r.label_weight)[..., 0]
    square = jnp.sum(jnp.square(r.error), axis=-1)
    positive = square > 0
    # The inner where keeps the derivative of the root finite at zero error, where it is taken as 0.
    return weight * jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0), jnp.all(r.present, axis=-1)


def _huber(delta: float, r: Residual) -> tuple[jax.Array, jax.Array]:
    return r.weight * r.label_weight * optax.huber_loss(r.error, delta=delta), r.present


def _universal(delta: jax.Array | float, r: Residual) -> tuple[jax.Array, jax.Array]:
    return r.weight * optax.huber_loss(r.label_weight * r.error, delta=delta), r.present


def _universal_forces(delta: float, r: Residual) -> tuple[jax.Array, jax.Array]:
    size = jnp.linalg.norm(r.label_weight * r.label, axis=-1, keepdims=True)  # of labels: never differentiated
    regime = jnp.sum(size >= jnp.asarray(FORCE_BOUNDS, size.dtype), axis=-1, keepdims=True)  # [N, 1], 0 to 3
    return _universal(delta * jnp.asarray(DELTA_FACTORS, size.dtype)[regime], r)
