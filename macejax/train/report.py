"""One HTML page about a run, with its figures inside: it opens without a network and can be mailed."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macejax.checkpoint.atomic import write_atomically
from macejax.page import image, page, section, subplots, table
from macejax.train.table import Table

# A scatter of more points takes long to draw and shows no more; the tables are of all.
MOST_POINTS = 20000
COLORS = {"train": "#9aa5b1", "valid": "#e08a1e", "test": "#1f6feb"}


NOTHING = np.zeros((0, 2))
NOTHING.setflags(write=False)  # shared by all
PLOTS = {
    "energy": ("Energy per atom, without isolated atoms", " (eV/atom)"),
    "forces": ("Force components", " (eV/Å)"),
    "dipole": ("Dipole components", ""),
    "polarizability": ("Polarizability components", ""),
}


class Parity(NamedTuple):
    """Labels and predictions of one subset, flat, those without a label left out. Each is [values, 2]: label, prediction."""

    energy: np.ndarray  # interaction energy per atom, eV
    forces: np.ndarray  # components, eV/Angstrom
    dipole: np.ndarray = NOTHING  # components
    polarizability: np.ndarray = NOTHING  # components


class Content(NamedTuple):
    """What a report tells."""

    title: str
    subtitle: str
    cards: Sequence[tuple[str, str]]  # value, what it is
    table: Table
    history: Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
    parity: Mapping[str, Parity]  # subset -> labels and predictions
    facts: Mapping[str, str]  # name -> value: timing, batches, statistics
    configuration: str  # YAML


def write_report(path: str | os.PathLike, content: Content) -> None:
    """Write the page; no file but it is needed to read it.

    Raises:
      OSError: the disk refuses.
    """
    write_atomically(Path(path), _page(content).encode())


def add_section(path: str | os.PathLike, title: str, text: str, figure: Any) -> None:
    """Append a section with one matplotlib Figure to a page that `write_report` wrote.

    Raises:
      OSError: the page cannot be read or written.
    """
    there = Path(path).read_text(encoding="utf-8")
    added = section(title, f"<p>{html.escape(text)}</p>{image(figure, title)}")
    write_atomically(Path(path), there.replace("</main>", added + "</main>").encode())


def _page(content: Content) -> str:
    options = f"<details><summary>every option</summary><pre>{html.escape(content.configuration)}</pre></details>"
    sections = (
        ("Errors", table(content.table.head, content.table.rows)),
        ("Learning curves", image(learning_curves(content.history), "learning curves")),
        ("Prediction against label", image(parity_plots(content.parity), "parity plots")),
        ("The run", table((), list(content.facts.items()))),
        ("Configuration", options),
    )
    return page(content.title, content.subtitle, content.cards, sections)


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Any:
    """matplotlib Figure: losses, validation errors and learning rate over epochs, from the lines of `metrics.jsonl`."""
    lines = [line for line in history if line["kind"] == "validation"]
    figure, axes = subplots(1, 3)

    def draw(axis: Any, field: str, label: str, color: str, factor: float = 1.0) -> None:
        points = [(line["epoch"], factor * line[field]) for line in lines if line.get(field) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), color=color, label=label, lw=1.6, marker="o" if len(points) < 25 else None, ms=3.5)

    draw(axes[0], "train_loss", "train", COLORS["train"])
    draw(axes[0], "loss", "valid", COLORS["valid"])
    draw(axes[1], "forces_mae", "F, meV/Å", COLORS["test"], 1000)
    draw(axes[1], "energy_per_atom_mae", "E, meV/atom", COLORS["valid"], 1000)
    draw(axes[1], "stress_mae", "stress, meV/Å³", "#2b8a3e", 1000)
    draw(axes[1], "dipole_per_atom_mae", "dipole, 10⁻³/atom", "#7048a8", 1000)
    draw(axes[1], "polarizability_per_atom_mae", "polarizability, 10⁻³/atom", "#c2255c", 1000)
    draw(axes[2], "learning_rate", "learning rate", "#7048a8")
    for axis, title in zip(axes, ("Loss", "Validation MAE", "Learning rate"), strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.lines:
            axis.set_yscale("log")
            axis.legend(frameon=False)
        for stage in (line["epoch"] for line in history if line["kind"] == "stage"):
            axis.axvline(stage, color="#9aa5b1", ls=":", lw=1)
    return figure


def parity_plots(parity: Mapping[str, Parity]) -> Any:
    """matplotlib Figure: what is predicted against its labels, for every subset, with the diagonal; energies and forces where there is
    no label at all.
    """
    shown = [field for field in PLOTS if any(len(getattr(pairs, field)) for pairs in parity.values())] or ["energy", "forces"]
    figure, axes = subplots(1, len(shown))
    random = np.random.default_rng(0)
    for axis, field in zip(np.ravel(axes), shown, strict=True):
        for subset, pairs in parity.items():
            points = getattr(pairs, field)
            if len(points) > MOST_POINTS:
                points = points[random.choice(len(points), MOST_POINTS, replace=False)]
            if len(points):
                size = 14 if field == "energy" else 5
                axis.scatter(points[:, 0], points[:, 1], s=size, alpha=0.55, lw=0, color=COLORS.get(subset), label=subset, rasterized=True)
        name, unit = PLOTS[field]
        axis.set(title=name, xlabel=f"label{unit}", ylabel=f"prediction{unit}")
        axis.locator_params(nbins=6)
        if axis.collections:
            low, high = min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])
            axis.plot([low, high], [low, high], color="#1f2933", lw=0.8, zorder=0)
            axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axis.legend(frameon=False, markerscale=2)
    return figure
