"""(seed, epoch) -> order of the structures: a pure function, which is what makes resuming exact."""

from __future__ import annotations

import numpy as np


def order(num: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation [num] of the structures of a data set for one epoch.

    It is drawn from the raw bits of Philox, whose stream numpy promises never to change (it makes no such promise for `permutation`), so
    that a run can be resumed under another version of numpy.

    Args:
      num: structures in the data set.
      seed: of the run, 0 or more.
      epoch: 0, 1, 2, ...
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num)
    return np.argsort(bits, kind="stable")
