"""One HTML page about a run, with its figures inside: it opens without a network and can be mailed."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from macejax.checkpoint.atomic import write_atomically
from macejax.train.table import Table

# A scatter of more points takes long to draw and shows no more; the tables are of all.
MOST_POINTS = 20000
COLORS = {"train": "#9aa5b1", "valid": "#e08a1e", "test": "#1f6feb"}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;background:#f5f7fa;margin:0}
main{max-width:1060px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;margin:0}h2{font-size:18px;margin:36px 0 10px}p{margin:6px 0;color:#52606d}
section,.card{background:#fff;border:1px solid #e4e7eb;border-radius:10px;padding:18px 20px;overflow-x:auto}
.cards{display:flex;gap:14px;flex-wrap:wrap;margin-top:22px}.card{flex:1;min-width:140px}
.card b{display:block;font-size:24px;font-variant-numeric:tabular-nums}.card span{color:#52606d;font-size:13px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:5px 12px;text-align:right;border-bottom:1px solid #eef1f4;white-space:nowrap}
th{color:#52606d;font-weight:600;font-size:13px;white-space:normal}th:first-child,td:first-child{text-align:left;white-space:pre}
img{width:100%;height:auto;display:block}pre{font:13px/1.45 ui-monospace,monospace;margin:0}summary{cursor:pointer;color:#52606d}
"""


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
    page = Path(path).read_text(encoding="utf-8")
    section = f"<h2>{html.escape(title)}</h2><section><p>{html.escape(text)}</p>{_image(figure, title)}</section>"
    write_atomically(Path(path), page.replace("</main>", section + "</main>").encode())


def _page(content: Content) -> str:
    escape = html.escape
    cards = "".join(f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in content.cards)
    facts = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in content.facts.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(content.title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(content.title)}</h1><p>{escape(content.subtitle)}</p><div class="cards">{cards}</div>'
        f"<h2>Errors</h2><section>{_html_table(content.table)}</section>"
        f"<h2>Learning curves</h2><section>{_image(learning_curves(content.history), 'learning curves')}</section>"
        f"<h2>Prediction against label</h2><section>{_image(parity_plots(content.parity), 'parity plots')}</section>"
        f"<h2>The run</h2><section><table>{facts}</table></section>"
        f"<h2>Configuration</h2><section><details><summary>every "
        f"option</summary><pre>{escape(content.configuration)}</pre></details></section>"
        "</main></body></html>"
    )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><tr>{head}</tr>{rows}</table>"


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Any:
    """matplotlib Figure: losses, validation errors and learning rate over epochs, from the lines of `metrics.jsonl`."""
    lines = [line for line in history if line["kind"] == "validation"]
    figure, axes = _figure(1, 3)

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
    figure, axes = _figure(1, len(shown))
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


def _figure(rows: int, columns: int) -> tuple[Any, np.ndarray]:
    """A figure outside of pyplot, which would keep it, and choose a back end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6 if columns == 3 else 4.9), layout="constrained")
    axes = figure.subplots(rows, columns)
    for axis in np.ravel(axes):
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _image(figure: Any, name: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160)
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
