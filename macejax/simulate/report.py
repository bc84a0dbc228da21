"""One page about runs of molecular dynamics, and its figure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macejax.checkpoint.atomic import write_atomically
from macejax.page import image, page, subplots, table
from macejax.simulate.md import Thermo, drift

MOST_CURVES = 100  # more cannot be told apart; the table is of all
HEAD = ("structure", "atoms", "ps", "temperature K", "pressure GPa", "volume Å³", "drift meV/atom/ps", "")


class Told(NamedTuple):
    """A run that is told of."""

    name: str
    atoms: int
    thermo: Sequence[Thermo]  # of every frame
    stopped: str  # why it ended early, "" where it did not

    def cells(self) -> list[str]:
        """Means over the second half of the run, and the slope of the total energy over all of it, as text."""
        half = self.thermo[len(self.thermo) // 2 :]
        numbers = [_mean([state.temperature for state in half], 0), _mean([state.pressure for state in half], 3)]
        numbers += [_mean([state.volume for state in half], 2), slope(self)]
        ps = f"{self.thermo[-1].time / 1000:.3f}" if self.thermo else "–"
        return [self.name, str(self.atoms), ps, *numbers, self.stopped or "done"]


def slope(told: Told) -> str:
    """Of the total energy over time, as text: what NVE conserves."""
    times = [state.time for state in told.thermo]
    if len(set(times)) < 3:
        return "–"
    return f"{drift(np.array(times), np.array([state.total_energy for state in told.thermo]), told.atoms):+.4f}"


def write_md_report(path: str | os.PathLike, runs: Sequence[Told], facts: Mapping[str, str]) -> Path:
    """Write the page, and beside it the figure as PNG, whose path is returned.

    Args:
      path: of the page.
      runs: what there is to tell.
      facts: name and value of what else is to be told.

    Raises:
      OSError: the disk refuses.
    """
    rows = [run.cells() for run in runs]
    first = dict(zip(HEAD, rows[0], strict=True))
    names = ("ps", "temperature K", "pressure GPa", "drift meV/atom/ps")
    done = sum(not run.stopped for run in runs)
    cards = [(first[name], name) for name in names] if len(runs) == 1 else [(f"{done} of {len(runs)}", "came to their end")]
    figure = draw(runs)
    sections = [("Along the run", image(figure, "thermo")), ("Structures", table(HEAD, rows)), ("The run", table((), list(facts.items())))]
    sections.append(("What the columns are", "<p>Means are over the second half, the slope of the total energy is over all of a run.</p>"))
    what = runs[0].name if len(runs) == 1 else f"{len(runs)} structures"
    write_atomically(Path(path), page("Molecular dynamics", what, cards, sections).encode())
    picture = Path(path).with_suffix(".png")
    figure.savefig(picture, dpi=160)
    return picture


def draw(runs: Sequence[Told]) -> Any:
    """matplotlib Figure: temperature, total energy against its start, and pressure, or potential energy where there is none, over time."""
    figure, axes = subplots(1, 3)
    pressed = any(state.pressure is not None for run in runs for state in run.thermo)
    for run in runs[:MOST_CURVES]:
        ps = [state.time / 1000 for state in run.thermo]
        if not ps:
            continue
        style = {"color": "#1f6feb", "alpha": 0.9 if len(runs) < 5 else 0.3, "lw": 1}
        start = run.thermo[0]
        total = [1000 * (state.total_energy - start.total_energy) / run.atoms for state in run.thermo]
        potential = [1000 * (state.potential_energy - start.potential_energy) / run.atoms for state in run.thermo]
        pressure = [np.nan if state.pressure is None else state.pressure for state in run.thermo]
        for axis, values in zip(
            axes, ([state.temperature for state in run.thermo], total, pressure if pressed else potential), strict=True
        ):
            axis.plot(ps, values, **style)
    labels = ("temperature (K)", "total energy - first (meV/atom)", "pressure (GPa)" if pressed else "potential energy - first (meV/atom)")
    for axis, label in zip(axes, labels, strict=True):
        axis.set(xlabel="time (ps)", ylabel=label)
    return figure


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.{digits}f}" if known else "–"
