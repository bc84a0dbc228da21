"""Classes of like degree: which rows of a batch get how many neighbour slots (macejax/model/rows.py).

What decides is how many rows are wider than 4, 8, 12, ... slots: `above` [W], an atom's degree being rounded up as slots are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

SLOT_STEP = 4  # neighbour slots per atom come in multiples of this
MOST_CLASSES = 4
# A further class must save this part of all slots: it costs a tenth of the time, in smaller matrix products, and compilation.
WORTHWHILE = 0.2

Classes = tuple[tuple[int, int], ...]  # (rows, slots of each), widths ascending; () is one class of all rows


def rows_above(degrees: np.ndarray, slots: int) -> np.ndarray:
    """How many atoms of degrees [n] need more than 4, 8, ... slots, up to below `slots`: [slots / 4 - 1]."""
    return np.sum(degrees[:, None] > np.arange(SLOT_STEP, slots, SLOT_STEP), axis=0)


def choose_classes(above: np.ndarray, nodes: int, slots: int, limit: int = MOST_CLASSES) -> Classes:
    """At most `limit` classes that hold rows of which so many are wider than 4, 8, ... slots, as long as another saves slots.

    Args:
      above: [W], W at least slots / 4 - 1; further entries are 0.
      nodes: rows in all.
      slots: of the widest.
    """
    widths = np.arange(SLOT_STEP, slots, SLOT_STEP)
    wider = dict(zip(widths.tolist(), np.minimum(above, nodes)[: len(widths)].tolist(), strict=True))

    def made(cuts: Sequence[int]) -> Classes:
        ends = [*sorted(cuts), slots]
        counts = [nodes, *(wider[cut] for cut in ends[:-1]), 0]
        return tuple((counts[c] - counts[c + 1], width) for c, width in enumerate(ends) if counts[c] > counts[c + 1])

    cuts: list[int] = []
    while len(cuts) < limit - 1 and (rest := [width for width in wider if width not in cuts]):
        best = min(rest, key=lambda width: num_slots(made([*cuts, width])))
        if num_slots(made([*cuts, best])) > (1 - WORTHWHILE) * num_slots(made(cuts)):
            break
        cuts.append(best)
    return made(cuts) if cuts else ()


def all_classes(above: np.ndarray, nodes: int, slots: int) -> Classes:
    """The classes of rows of which so many are wider than 4, 8, ... slots, with one for every width that occurs."""
    counts = [nodes, *np.minimum(above, nodes)[: slots // SLOT_STEP - 1].tolist(), 0]
    return tuple((int(a - b), SLOT_STEP * (k + 1)) for k, (a, b) in enumerate(itertools.pairwise(counts)) if a > b)


def num_slots(classes: Classes) -> int:
    """Slots of all rows."""
    return sum(count * width for count, width in classes)


def hold(classes: Classes, others: Classes, nodes: int, slots: int) -> bool:
    """Whether `classes` have a row for each of `others`; () stands for `nodes` rows of `slots`."""
    rows, need = (sorted((width, count) for count, width in found or ((nodes, slots),)) for found in (classes, others))
    widths = {width for width, _ in need}
    return all(
        sum(count for width, count in rows if width >= least) >= sum(count for width, count in need if width >= least) for least in widths
    )


def sort_rows(degrees: np.ndarray, classes: Classes) -> dict[int, np.ndarray]:
    """The atoms of each class, by its width: those of least degree in the narrowest, in their own order within a class.

    Args:
      degrees: of all nodes of a batch [N], 0 on padding.
      classes: which hold them.
    """
    order = np.argsort(degrees, kind="stable").astype(np.int32)
    ends = np.cumsum([count for count, _ in classes])
    return {width: np.sort(atoms) for (_, width), atoms in zip(classes, np.split(order, ends[:-1]), strict=True)}
