"""What a sum over neighbours is made of: the four arrays, and the terms of its components."""

from __future__ import annotations

import functools

WEIGHTS, HARMONICS, FEATURES, MESSAGES = range(4)
NAMES = ("weights", "harmonics", "features", "messages")
EDGES = (WEIGHTS, HARMONICS, FEATURES)
Terms = tuple[tuple[int, int, int, float], ...]  # (path, harmonic, component of the feature, coefficient)
Rows = tuple[Terms, ...]


def others(which: int) -> list[int]:
    """The arrays that the derivative by array number `which` is a function of."""
    return [k for k in range(4) if k != which]


@functools.cache
def counts_of(rows: Rows) -> tuple[int, int, int]:
    """Paths, harmonics, components of a feature."""
    terms = [term for row in rows for term in row]
    return 1 + max(p for p, *_ in terms), 1 + max(y for _, y, *_ in terms), 1 + max(d for _, _, d, _ in terms)


def shape_of(which: int, shapes: dict[int, tuple[int, ...]], rows: Rows) -> tuple[int, ...]:
    """Shape of array number `which`, from those of others."""
    num, slots = shapes[WEIGHTS if which != WEIGHTS else FEATURES][:2]
    channels = shapes[FEATURES if which != FEATURES else WEIGHTS][-1]
    paths, harmonics, components = counts_of(rows)
    return {
        WEIGHTS: (num, slots, paths, channels),
        HARMONICS: (num, slots, harmonics),
        FEATURES: (num, slots, components, channels),
        MESSAGES: (num, len(rows), channels),
    }[which]
