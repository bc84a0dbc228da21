"""One HTML page with its figures inside: it opens without a network and can be mailed."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

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


def page(title: str, subtitle: str, cards: Sequence[tuple[str, str]], sections: Sequence[tuple[str, str]]) -> str:
    """The whole page.

    Args:
      title, subtitle: text.
      cards: value and what it is, as text; shown large.
      sections: heading, as text, and what is below it, as HTML.
    """
    escape = html.escape
    shown = "".join(f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in cards)
    below = "".join(section(heading, body) for heading, body in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p>{escape(subtitle)}</p><div class="cards">{shown}</div>{below}</main></body></html>'
    )


def section(heading: str, body: str) -> str:
    """A part of the page: heading as text, body as HTML."""
    return f"<h2>{html.escape(heading)}</h2><section>{body}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of a table of text; without a head where that is empty."""
    top = "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def subplots(rows: int, columns: int) -> tuple[Any, np.ndarray]:
    """A matplotlib Figure outside of pyplot, which would keep it, and choose a back end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6 if columns == 3 else 4.9), layout="constrained")
    made = figure.subplots(rows, columns)
    for axis in np.ravel(made):
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, made


def image(figure: Any, name: str) -> str:
    """HTML of a matplotlib Figure, its pixels inside."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160)
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
