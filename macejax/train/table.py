"""The table of errors at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from macejax.train.metrics import ALL, Errors

Summary = Mapping[str, Mapping[str, Errors]]  # group (config_type, or "all") -> property -> errors, from metrics.summarize

COLUMNS = {
    "energy_per_atom": ("E", "meV/atom"),
    "forces": ("F", "meV/Å"),
    "stress": ("stress", "meV/Å³"),
    "virials_per_atom": ("virial", "meV/atom"),
    "dipole_per_atom": ("dipole", "10⁻³/atom"),  # in the units of the labels
    "polarizability_per_atom": ("polarizability", "10⁻³/atom"),
}


class Table(NamedTuple):
    """Text of a table: one list of cells per row."""

    head: list[str]
    rows: list[list[str]]


def error_table(summaries: Mapping[str, Summary], counts: Mapping[str, Mapping[str, int]]) -> Table:
    """MAE and RMSE of energy per atom, forces, stress, virials, dipole and polarizability, a row per subset and config_type.

    Args:
      summaries: subset (train, valid, test) -> group -> property -> errors.
      counts: subset -> group -> number of structures.

    A property without labels in any subset has no column. Where there is one config_type only, its row would repeat that of all, and is
    left out.
    """
    shown = [name for name in COLUMNS if any(name in g[ALL] and g[ALL][name].count for g in summaries.values())]
    head = ["set", "structures"]
    for name in shown:
        symbol, unit = COLUMNS[name]
        head += [f"MAE {symbol} {unit}", f"RMSE {symbol} {unit}"] + ([f"RMSE {symbol} %"] if name == "forces" else [])
    rows = []
    for subset, groups in summaries.items():
        for group, errors in groups.items():
            if group == ALL or len(groups) > 2:
                name = subset if group == ALL else f"  {subset}: {group}"
                cells = [cell for column in shown for cell in _cells(column, errors[column])]
                rows.append([name, str(counts[subset][group]), *cells])
    return Table(head, rows)


def plain(table: Table) -> str:
    """The table as lines of text: names to the left, numbers to the right."""
    lines = [table.head, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]

    def text(line: list[str]) -> str:
        cells = (
            cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([text(table.head), rule, *map(text, table.rows)])


def _cells(name: str, errors: Errors) -> list[str]:
    cells = [_number(1000 * errors.mae), _number(1000 * errors.rmse)]
    return cells + ([_number(100 * errors.relative_rmse)] if name == "forces" else [])


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
