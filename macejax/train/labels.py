"""What a loss needs of the data: labels of its terms, in the training and in the validation set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from macejax.data.graph import Graph
from macejax.data.structure import DataError


def require_labels(graphs: Sequence[Graph], terms: Iterable[str]) -> None:
    """Refuse a loss with a term that no training structure has a label for: mostly, the label has another name in the file.

    Raises:
      DataError: names the term, and how to go without it.
    """
    for term in terms:
        if not count_labels(graphs, term):
            raise DataError(
                f"the loss has a term for {term}, but no training structure has {term}, with a weight above 0: see data.keys.{term}, "
                f"or set loss.{term}_weight (and stage_two.{term}_weight) to 0."
            )


def check_validation(graphs: Sequence[Graph], losses: Sequence[Iterable[str]], heads: Sequence[str], warn: Callable[[str], None]) -> None:
    """Refuse a validation set without a label of any term of a loss: that would be 0 after every epoch, and the first epoch the best.

    Args:
      graphs: validation set.
      losses: terms of the loss of each stage.
      heads: of the model.
      warn: called with a sentence for every term, and every head, that the validation set lacks.

    Raises:
      DataError: there is no label at all.
    """
    absent = [term for term in dict.fromkeys(term for terms in losses for term in terms) if not count_labels(graphs, term)]
    for terms in losses:
        if {*terms} <= {*absent}:
            raise DataError(
                f"no validation structure has {' or '.join(terms)}, with a weight above 0: no epoch would be better than another. Label "
                f"them, or leave data.valid out, for a part of the training set."
            )
    for term in absent:
        warn(f"no validation structure has {term}: which epoch is the best is decided without it.")
    there = {graph.head for graph in graphs}
    for head in (head for place, head in enumerate(heads) if place not in there):
        warn(f"no validation structure is of the head {head!r}: which epoch is the best is decided without it.")


def count_labels(graphs: Sequence[Graph], term: str) -> int:
    """Number of structures with a label of a term of the loss that has a weight above 0."""
    labels = ((getattr(graph, term), graph.weight * graph.weights[term]) for graph in graphs)
    return sum(label is not None and weight > 0 and bool(np.any(~np.isnan(label))) for label, weight in labels)
