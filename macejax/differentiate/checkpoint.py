"""A scan whose reverse pass keeps the square root of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def checkpointed_scan(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, segment: int | None = None) -> tuple[Any, Any]:
    """`jax.lax.scan(body, carry, xs)`, differentiated with memory for about 2 sqrt(T) carries instead of for T steps.

    Segments of steps are scanned by an outer scan. The reverse pass keeps the carry at the start of each segment, runs one segment again
    at a time, keeping the carries between its steps, and each step once more for what is inside of it: three evaluations forwards, where
    without checkpoints there is one (Griewank and Walther, ACM TOMS 26, 19 (2000), with two levels).

    Args:
      body, carry, xs: as for `jax.lax.scan`; xs has at least one array, of leading axis T.
      segment: steps of a segment; about sqrt(T) where it is not given.

    Returns:
      last carry, and what the steps gave, stacked [T, ...].
    """
    steps = jax.tree.leaves(xs)[0].shape[0]
    segment = max(1, math.isqrt(steps)) if segment is None else segment
    if segment < 1:
        raise ValueError(f"a segment has at least one step, not {segment}.")
    count = steps // segment
    step = jax.checkpoint(body, prevent_cse=False)  # inside of a scan nothing is shared anyway

    def run(carry: Any, part: Any) -> tuple[Any, Any]:
        return jax.lax.scan(step, carry, part)

    head = jax.tree.map(lambda x: x[: count * segment].reshape((count, segment) + x.shape[1:]), xs)
    tail = jax.tree.map(lambda x: x[count * segment :], xs)
    carry, ys = jax.lax.scan(jax.checkpoint(run, prevent_cse=False), carry, head)
    ys = jax.tree.map(lambda y: y.reshape((count * segment,) + y.shape[2:]), ys)
    if count * segment == steps:
        return carry, ys
    carry, rest = jax.checkpoint(run)(carry, tail)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, rest)
