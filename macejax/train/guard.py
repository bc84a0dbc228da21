"""What may go wrong while training: numbers that are not finite, and signals that ask the run to end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import jax
import jax.numpy as jnp
import jraph

from macejax.data.structure import LABELS
from macejax.model.geometry import sum_per_graph
from macejax.potential import Prediction

# How many frames an error names before it only counts them.
NAMED_FRAMES = 8


class NonFiniteError(RuntimeError):
    """Several training steps in a row had a loss or gradient that was not finite."""


def check_finite(consecutive_skipped: int, limit: int, frames: Sequence[str]) -> None:
    """Stop a run that goes nowhere.

    Args:
      consecutive_skipped: skipped steps in a row, `info["consecutive_skipped"]`.
      limit: how many are one too many.
      frames: sources of the structures of the last such step; best those that `info["suspects"]` points to.

    Raises:
      NonFiniteError: the limit is reached.
    """
    if consecutive_skipped < limit:
        return
    named = ", ".join(frames[:NAMED_FRAMES]) + (f" and {len(frames) - NAMED_FRAMES} more" if len(frames) > NAMED_FRAMES else "")
    raise NonFiniteError(
        f"The loss or its gradient was not finite in {consecutive_skipped} training steps in a row; the last one held "
        f"{named or 'no structure'}. Look at the labels of these frames, then lower the learning rate or compute in float64. "
        "The parameters are still those before these steps."
    )


def suspects(prediction: Prediction, batch: jraph.GraphsTuple) -> jax.Array:
    """Data set index [G] int32 of each structure with a prediction or label that is not finite or whose square is not; -1 elsewhere."""

    def bad(x: jax.Array) -> jax.Array:
        return jnp.any(~jnp.isfinite(jnp.square(x)).reshape(x.shape[0], -1), axis=1)

    labels, moments = batch.globals, prediction.moments
    has_forces = batch.nodes["forces_mask"]
    node = bad(jnp.where(has_forces, batch.nodes["forces"], 0))
    if prediction.energy is not None:
        node |= bad(prediction.node_energy) | bad(prediction.forces)
    structure = sum_per_graph(node.astype(jnp.float32), batch) > 0
    if moments is not None:
        structure |= bad(moments.dipole)
        structure |= False if moments.polarizability is None else bad(moments.polarizability)
    for name in (name for name in LABELS if name != "forces"):
        present = labels[f"{name}_mask"].reshape((-1,) + (1,) * (labels[name].ndim - 1))
        structure |= bad(jnp.where(present, labels[name], 0))
    return jnp.where(structure & labels["mask"], labels["index"], -1)


@contextmanager
def stop_on_signal(signals: Sequence[int] = (signal.SIGTERM, signal.SIGUSR1)) -> Iterator[Callable[[], str | None]]:
    """Turn the first signal into a flag that the loop reads between steps.

    Yields a function that returns the name of the signal that came, or None. The handler sets the flag and nothing else, so a step or a
    save is never torn. A second signal acts at once, as it would have without this. The original handlers come back at the end. Outside
    of the main thread, where Python takes no handlers, the function always returns None.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    originals = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in originals.items():
            # None: the handler was installed by C code, and cannot be put back from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if received:
            restore()
            os.kill(os.getpid(), number)
        received.append(number)

    for number in signals:
        signal.signal(number, handle)
    try:
        yield lambda: signal.Signals(received[0]).name if received else None
    finally:
        restore()
