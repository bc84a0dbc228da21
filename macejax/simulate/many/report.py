"""One page about a relaxation of many structures, and its figure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from macejax.checkpoint.atomic import write_atomically
from macejax.page import image, page, subplots, table
from macejax.simulate.many.relax import Relaxed

GOOD, BAD = "#1f6feb", "#d1242f"
MOST_CURVES = 300  # more cannot be told apart; the table is of all


class Row(NamedTuple):
    """What a person wants to know of one structure."""

    name: str
    formula: str
    steps: int
    energy: float  # eV
    gain: float  # meV/atom, by how much the energy fell
    largest_force: float  # eV/Angstrom
    moved: float  # Angstrom, of the atom that went farthest, besides what it moved with the cell
    grown: float  # %, of the volume; NaN where the cell was fixed
    verdict: str

    def cells(self) -> list[str]:
        """As text."""
        numbers = [f"{self.energy:.6f}", f"{self.gain:.2f}", f"{self.largest_force:.4f}", f"{self.moved:.3f}"]
        grown = "–" if np.isnan(self.grown) else f"{self.grown:+.2f}"
        return [self.name, self.formula, str(self.steps), *numbers, grown, self.verdict]


HEAD = ("structure", "formula", "steps", "energy eV", "gain meV/atom", "largest force eV/Å", "moved Å", "volume %", "")


def row_of(start: Atoms, result: Relaxed) -> Row:
    """Compare the start with the result."""
    end = result.atoms
    first = result.path[0].energy if result.path else np.nan
    cell_moved = not np.array_equal(start.cell.array, end.cell.array)
    shift = end.positions - start.positions
    if cell_moved:  # what is left when the deformation of the cell is taken away
        shift = (end.get_scaled_positions(wrap=False) - start.get_scaled_positions(wrap=False)) @ end.cell.array
    grown = 100 * (end.get_volume() / start.get_volume() - 1) if cell_moved else np.nan
    return Row(
        name=result.name,
        formula=start.get_chemical_formula(),
        steps=result.end.step,
        energy=result.end.energy,
        gain=1000 * (first - result.end.energy) / len(start),
        largest_force=result.end.largest_force,
        moved=float(np.linalg.norm(shift, axis=1).max()),
        grown=grown,
        verdict="converged" if result.end.converged else "NOT converged",
    )


def write_report(
    path: str | os.PathLike, starts: Sequence[Atoms], results: Sequence[Relaxed], seconds: float, facts: Mapping[str, str], fmax: float
) -> Path:
    """Write the page, and beside it the figure as PNG, whose path is returned.

    Args:
      path: of the page.
      starts: structures before.
      results: of the same structures.
      seconds: that it took.
      facts: name and value of what else is to be told.
      fmax: that was asked for, eV/Angstrom.

    Raises:
      OSError: the disk refuses.
    """
    rows = [row_of(start, result) for start, result in zip(starts, results, strict=True)]
    converged = sum(result.end.converged for result in results)
    cards = [
        (f"{converged} of {len(results)}", "converged"),
        (f"{sum(row.steps for row in rows)}", "steps in all"),
        (f"{np.median([row.gain for row in rows]):.1f} meV/atom", "energy gained, median"),
        (f"{max(row.moved for row in rows):.2f} Å", "farthest that an atom moved"),
        (f"{len(results) / max(seconds, 1e-9):.2f} /s", "structures, compilation included"),
    ]
    figure = draw(rows, results, fmax)
    stopped = [result.stopped for result in results if result.stopped]
    sections = [("How they converged", image(figure, "convergence"))]
    if stopped:
        sections.append(("Not converged", table((), [[sentence] for sentence in stopped])))
    sections += [("Structures", table(HEAD, [row.cells() for row in rows])), ("The run", table((), list(facts.items())))]
    write_atomically(Path(path), page("Relaxation", f"{len(results)} structures", cards, sections).encode())
    picture = Path(path).with_suffix(".png")
    figure.savefig(picture, dpi=160)
    return picture


def draw(rows: Sequence[Row], results: Sequence[Relaxed], fmax: float) -> Any:
    """matplotlib Figure: largest force and energy over steps, and gain against motion, a curve or dot for each structure."""
    figure, axes = subplots(1, 3)
    for result in results[:MOST_CURVES]:
        steps = [state.step for state in result.path]
        style = {"color": GOOD if result.end.converged else BAD, "alpha": 0.8 if len(results) < 20 else 0.3, "lw": 1}
        axes[0].plot(steps, [state.largest_force for state in result.path], **style)
        above = 1000 * np.array([state.energy - result.end.energy for state in result.path]) / len(result.atoms)
        axes[1].plot(steps, np.where(above > 0, above, np.nan), **style)
    axes[0].axhline(fmax, color="#1f2933", lw=0.8, ls=":")
    for good, color, label in ((True, GOOD, "converged"), (False, BAD, "not converged")):
        chosen = [row for row, result in zip(rows, results, strict=True) if result.end.converged == good]
        if chosen:
            axes[2].scatter([row.moved for row in chosen], [row.gain for row in chosen], color=color, s=14, lw=0, alpha=0.7, label=label)
    axes[0].set(title="Largest force", xlabel="step", ylabel="eV/Å", yscale="log")
    axes[1].set(title="Energy above the end", xlabel="step", ylabel="meV/atom", yscale="log")
    axes[2].set(title="Gain and motion", xlabel="farthest atom moved (Å)", ylabel="energy gained (meV/atom)")
    axes[2].legend(frameon=False)
    return figure
