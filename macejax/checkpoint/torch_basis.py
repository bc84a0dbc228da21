"""Weights of mace-torch's product basis in the basis of macejax.

A module of mace-torch carries its own coupling coefficients, `U_matrix_nu` [2L+1, D, ..., D, P], D components of the message (no first
axis for L = 0). Only their part that is symmetric in the D axes acts, a polynomial per path; that is what is compared here. A module of
`mace_run_train` has the paths of macejax's full basis, and its weights are taken as they stand. Other bases (cuequivariance's reduced one,
another e3nn's signs) span the same polynomials: their weights are projected onto macejax's reduced basis, exactly, or refused.
"""

from __future__ import annotations

import numpy as np

from macejax.config import ModelConfig
from macejax.model.architecture import correlations, layer_irreps, message_irreps, num_channels
from macejax.model.coupling import Polynomials, irreps_dim, monomials, polynomials
from macejax.model.linear import irreps_of

# Largest difference of polynomials, relative to the largest coefficient. Other bases differ by order 1; modules trained in float32 and cast
# to float64 carry rounded coefficients, for which the exact ones are a better stand-in than a refusal.
BASIS_TOLERANCE = 1e-6

Contraction = dict[str, dict[str, np.ndarray]]  # irrep -> degree -> weights [Z, P, K]


class TorchImportError(ValueError):
    """A torch module that macejax cannot reproduce; the message names the part."""


def contraction_weights(config: ModelConfig, state: dict[str, np.ndarray]) -> tuple[ModelConfig, list[Contraction]]:
    """Product-basis weights of every layer, taken out of `state`.

    Args:
      config: architecture.
      state: arrays by their mace-torch names; what is used is taken out of it.

    Returns:
      The config with `contraction_basis` set to `full` where every path of the module is macejax's own, else to `reduced`; and, for each
      layer, irrep -> degree -> weights [Z, P, K].

    Raises:
      TorchImportError: some paths of the module cannot be expressed.
    """
    full: list[Contraction] = []
    reduced: list[Contraction] = []
    columns_agree = True
    for layer, correlation in enumerate(correlations(config)):
        message = message_irreps(config, layer)
        full.append({})
        reduced.append({})
        for index, irrep in enumerate(irreps_of(layer_irreps(config)[layer])):
            name = f"products.{layer}.symmetric_contractions.contractions.{index}"
            full[-1][irrep], reduced[-1][irrep] = {}, {}
            for degree in range(1, correlation + 1):
                suffix = "weights_max" if degree == correlation else f"weights.{correlation - 1 - degree}"
                weight, coupling = take(state, f"{name}.{suffix}"), take(state, f"{name}.U_matrix_{degree}")
                wanted = (1 if config.agnostic_product else len(config.elements), coupling.shape[-1], num_channels(config))
                if weight.shape != wanted:
                    raise TorchImportError(f"{name}.{suffix} has the shape {weight.shape}, where macejax has {wanted}.")
                ours = polynomials(message, degree, irrep)
                coefficients, agree = _express(coupling, ours, irreps_dim(message), degree, name)
                columns_agree &= agree
                full[-1][irrep][str(degree)] = weight
                reduced[-1][irrep][str(degree)] = np.einsum("zpk,pr->zrk", weight, coefficients).astype(weight.dtype)
    basis = "full" if columns_agree else "reduced"
    return config.model_copy(update={"contraction_basis": basis}), full if columns_agree else reduced


def take(state: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The array `name`, taken out of `state`.

    Raises:
      TorchImportError: there is none.
    """
    if name not in state:
        raise TorchImportError(f"the module has no {name}, where every MACE of mace-torch that macejax knows has one.")
    return state.pop(name)


def _express(coupling: np.ndarray, ours: Polynomials, dim: int, degree: int, name: str) -> tuple[np.ndarray, bool]:
    """The module's paths in macejax's reduced basis [P, R], and whether they are, column by column, the paths of the full basis."""
    if coupling.shape[-degree - 1 : -1] != (dim,) * degree:
        raise TorchImportError(f"{name}.U_matrix_{degree} has the shape {coupling.shape}, where macejax has {dim} components of a message.")
    theirs = symmetric_part(coupling, dim, degree, ours.reduced.shape[1])  # [P, 2L+1, monomials]
    tolerance = BASIS_TOLERANCE * max(1.0, np.abs(theirs).max(initial=0.0))
    # Orthonormal in tensor space, where a monomial's coefficient is spread over its orderings; `reduced` carries a factor sqrt(2L+1).
    spread = 1 / orderings(dim, degree)
    coefficients = np.einsum("pam,ram,m->pr", theirs, ours.reduced, spread) / ours.reduced.shape[1]
    residual = np.abs(theirs - np.einsum("pr,ram->pam", coefficients, ours.reduced)).max(initial=0.0)
    if residual > tolerance:
        raise TorchImportError(f"{name}.U_matrix_{degree} does not lie in the span of macejax's product basis (residual {residual:.1e}).")
    same = coefficients.shape == ours.projection.shape and np.abs(coefficients - ours.projection).max(initial=0.0) <= tolerance
    return coefficients, bool(same)


def symmetric_part(coupling: np.ndarray, dim: int, degree: int, components: int) -> np.ndarray:
    """Polynomials [P, 2L+1, number of monomials] of coupling coefficients [2L+1, D, ..., D, P]: entries of equal index set are summed."""
    columns = coupling.astype(np.float64).reshape(components, dim**degree, -1)
    result = np.zeros((len(_keys(dim, degree)), components, columns.shape[-1]))
    np.add.at(result, _monomial_of_entry(dim, degree), columns.swapaxes(0, 1))
    return result.transpose(2, 1, 0)


def orderings(dim: int, degree: int) -> np.ndarray:
    """How many entries of a tensor belong to each monomial, [number of monomials]."""
    return np.bincount(_monomial_of_entry(dim, degree), minlength=len(_keys(dim, degree))).astype(np.float64)


def _monomial_of_entry(dim: int, degree: int) -> np.ndarray:
    entries = np.sort(np.stack(np.unravel_index(np.arange(dim**degree), (dim,) * degree), axis=-1), axis=-1)
    return np.searchsorted(_keys(dim, degree), np.ravel_multi_index(tuple(entries.T), (dim,) * degree))


def _keys(dim: int, degree: int) -> np.ndarray:
    """Each monomial as one ascending number."""
    return np.ravel_multi_index(tuple(monomials(dim, degree).T), (dim,) * degree)
