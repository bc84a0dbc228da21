"""Rows of neighbour slots in classes of like width, so that an atom with few neighbours does not pay for the slots of one with many.

A batch has rows of one width [N, M]. Where it carries `nodes["classes"]` too, {width M_c: the atoms [N_c] of that class}, the layers work
on the rows in the order of the classes, of which each has only its first M_c slots: node features are permuted when they come in and
permuted back when they go out. Without it there is one class, and no permutation.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from macejax.model.geometry import rows
from macejax.ops.gather import permute


class Layout(NamedTuple):
    """How the rows of a batch lie in the layers."""

    shapes: tuple[tuple[int, int], ...]  # of every class (N_c, M_c)
    senders: tuple[jax.Array, ...]  # of every class [N_c, M_c], as places in the order of the layers
    reverse: jax.Array  # [sum of N_c M_c], slot of the reversed edge, counted over all classes
    order: jax.Array | None  # [N] the atom of each row; None where atoms stay in their order
    row: jax.Array | None  # [N] the row of each atom

    def enter(self, x: jax.Array) -> jax.Array:
        """A node array [N, ...] in the order of the layers."""
        return x if self.order is None or self.row is None else permute(x, self.order, self.row)

    def leave(self, x: jax.Array) -> jax.Array:
        """A node array [N, ...] of the layers in the order of the batch."""
        return x if self.order is None or self.row is None else permute(x, self.row, self.order)

    def by_class(self, tree: Any) -> list[Any]:
        """A tree of arrays [N, ...] in the order of the layers: of every class [N_c, ...]."""
        ends = np.cumsum([0] + [count for count, _ in self.shapes]).tolist()
        return [tree] if len(self.shapes) == 1 else [jax.tree.map(operator.itemgetter(slice(*part)), tree) for part in pairwise(ends)]

    def slots_by_class(self, tree: Any) -> list[Any]:
        """A tree of edge arrays [N, M, ...] of the batch: of every class [N_c, M_c, ...]."""
        return _narrowed(self.by_class(jax.tree.map(self.enter, tree)), self.shapes)


def make_layout(graph: jraph.GraphsTuple) -> Layout:
    """The layout of a batch: of its classes, or of all rows as one."""
    senders, reverse = rows(graph.senders, graph), graph.edges["reverse"]
    classes = graph.nodes.get("classes")
    if not classes:
        return Layout((senders.shape,), (senders,), reverse, None, None)
    widths, row = sorted(classes), graph.nodes["row"]
    shapes = tuple((len(classes[width]), width) for width in widths)
    counts, places = zip(*shapes, strict=True)
    firsts = jnp.asarray(np.cumsum(np.repeat(places, counts)) - np.repeat(places, counts), jnp.int32)  # slots of the rows before
    layout = Layout(shapes, (), reverse, jnp.concatenate([classes[width] for width in widths]), row)
    node, slot = jnp.divmod(reverse.reshape(senders.shape), senders.shape[1])
    parts = layout.slots_by_class({"senders": row[senders], "reverse": firsts[row[node]] + slot})
    packed = jnp.concatenate([part["reverse"].reshape(-1) for part in parts])
    return layout._replace(senders=tuple(part["senders"] for part in parts), reverse=packed)


def _narrowed(parts: Sequence[Any], shapes: Sequence[tuple[int, int]]) -> list[Any]:
    """The first M_c slots of every class."""
    return [jax.tree.map(operator.itemgetter((slice(None), slice(width))), part) for part, (_, width) in zip(parts, shapes, strict=True)]
