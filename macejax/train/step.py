"""One batch to the gradient of its loss, by reverse-over-forward differentiation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph

from macejax.model.geometry import edge_vectors
from macejax.model.sites import Sites
from macejax.ops.blocks import forward_mode
from macejax.potential.predict import SiteEnergy, as_sites, assemble_sites, sites_and_gradient
from macejax.train.guard import suspects
from macejax.train.loss import Loss, combine


class Gradient(NamedTuple):
    """Loss of a step and its gradient."""

    loss: jax.Array  # []
    terms: dict[str, jax.Array]  # [] each, mean error of each term of the loss, without its weight
    params: Any  # d loss / d params
    suspects: jax.Array  # [G] int32, data set index of structures with a number that is not finite, -1 elsewhere


def loss_and_gradient(
    site_energy: SiteEnergy,
    loss: Loss,
    params: Any,
    batch: jraph.GraphsTuple,
    all_sum: Callable[[Any], Any] = lambda tree: tree,
    trainable: Any = None,
) -> Gradient:
    """Loss of a batch and its gradient with respect to `params`.

    The loss depends on the node energies e and on g = dE/dr of every edge vector r, E the sum of e. With the cotangents a = dL/de and v =
    dL/dg, the chain rule is

        dL/dparams = d/dparams [ <a, e> + <v, dE/dr> ]      a and v held fixed,

    and <v, dE/dr> is the derivative of E along v: one forward-mode jvp. So the second derivatives come from one reverse pass through a
    jvp, and never from a reverse pass through a reverse pass, which keeps four times as much in memory. Moments of atoms, which the loss
    may depend on too, are further e, of which there is no gradient.

    | symbol | variable |
    |---|---|
    | e, g | sites, gradient |
    | a, v | cotangent, direction |

    Args:
      site_energy: `(params, vectors [N, M, 3], graph) -> node energies [N]`, or `Sites`.
      loss: from `loss_terms`.
      params: parameters of the potential.
      batch: batch in row form, the part of this device.
      all_sum: sums a tree over all devices. Each label counts once wherever it lies: the local sums are divided by counts over all
        devices before they are differentiated, and the gradients summed afterwards.
      trainable: tree of bools like `params`; where one is False, the gradient is zero and costs nothing. None: all are True.
    """
    sites, gradient = sites_and_gradient(site_energy, params, batch)

    def numerators_and_counts(sites: Sites, gradient: jax.Array | None) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        terms = loss.terms(assemble_sites(sites, gradient, batch), batch)
        return {name: numerator for name, (numerator, _) in terms.items()}, {name: count for name, (_, count) in terms.items()}

    numerators, pullback, counts = jax.vjp(numerators_and_counts, sites, gradient, has_aux=True)
    counts = all_sum(counts)
    # d loss / d numerator = weight / count
    cotangent, direction = pullback(jax.grad(lambda numerators: combine(loss, numerators, counts)[0])(numerators))

    vectors = edge_vectors(batch)

    def along_direction(params: Any) -> jax.Array:
        if trainable is not None:
            params = jax.tree.map(lambda x, moves: x if moves else jax.lax.stop_gradient(x), params, trainable)
        if direction is None:
            return _dot(cotangent, as_sites(site_energy(params, vectors, batch)))
        with forward_mode():
            found, slope = jax.jvp(lambda r: as_sites(site_energy(params, r, batch)), (vectors,), (direction,))
        return _dot(cotangent, found) + jnp.sum(slope.energy)

    value, means = combine(loss, all_sum(numerators), counts)
    return Gradient(value, means, all_sum(jax.grad(along_direction)(params)), suspects(assemble_sites(sites, gradient, batch), batch))


def _dot(cotangent: Sites, sites: Sites) -> jax.Array:
    products = [jnp.sum(a * x) for a, x in zip(jax.tree.leaves(cotangent), jax.tree.leaves(sites), strict=True)]
    return functools.reduce(jnp.add, products)
