"""The result as one HTML page that loads nothing: verdict, intervals, table, curves.

Comes in: a `Result`. Goes out: HTML in the frame of the report. Names of choices are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Final

import numpy as np

from trainvitals.experiments.result import HEADER, Result, Row, cells
from trainvitals.remedies.table import number
from trainvitals.report.page_style import document
from trainvitals.report.svg import Line, plot
from trainvitals.report.text import clean

WIDTH, LEFT, ROW_HEIGHT = 640, 150, 24
CURVES_MAX: Final = 6
"""Curves in one image: the style has six colours."""


def page(result: Result) -> str:
    """Return the page."""
    title = f"{result.best} is the best choice" if result.best else "No proven winner"
    better = "higher is better" if result.higher_is_better else "lower is better"
    about = f"{result.metric} ({better}), {result.steps} steps, {len(result.seeds)} seeds"
    notes = "".join(f"<p>{_text(note)}</p>" for note in result.notes)
    body = (
        f'<h1>{_text(title)}</h1><div class="card {"good" if result.best else "info"}">'
        f"<p>{_text(result.reason)}</p>{notes}</div>"
        f"<h2>{_text(about)}</h2>{_figure(_intervals(result), 'Mean and 95 % interval')}"
        f"<h2>Every choice</h2>{_table(result)}"
        "<p class=dim>Where the loss varies, final losses have different units.</p>"
        f"<h2>During the training</h2>{_curves(result)}"
    )
    return document(clean(title), body)


def _table(result: Result) -> str:
    head = "".join(f'<th scope="col">{_text(title)}</th>' for title in HEADER)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells(row)) + "</tr>"
        for row in result.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _intervals(result: Result) -> str:
    """Return an SVG with the mean and the 95 % interval of each choice."""
    rows = result.rows
    ends = [v for r in rows for v in (r.low, r.high, r.metric) if v is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    height = ROW_HEIGHT * len(rows) + 26
    label = _text(f"Mean and 95 % interval of the {result.metric} for each choice")
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">',
        *(_interval(row, i, low, high) for i, row in enumerate(rows)),
        f'<text class="dim" x="{LEFT}" y="{height - 4}">{number(low)}</text>',
        f'<text class="dim" x="{WIDTH - 10}" y="{height - 4}" text-anchor="end">'
        f"{number(high)}</text></svg>",
    ]
    return "".join(parts)


def _interval(row: Row, at: int, low: float, high: float) -> str:
    def across(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return LEFT + share * (WIDTH - LEFT - 10)

    y = ROW_HEIGHT * at + 16
    name = f'<text x="0" y="{y + 4}">{_text(row.choice[:22])}</text>'
    if row.metric is None or row.low is None or row.high is None:
        return f'{name}<text class="error" x="{LEFT}" y="{y + 4}">diverged</text>'
    middle = across(row.metric)
    return (
        f'{name}<path class="axis" d="M{across(row.low):.1f} {y}H{across(row.high):.1f}"/>'
        f'<path class="marker info" style="stroke-dasharray:none;stroke-width:4" '
        f'd="M{middle:.1f} {y - 6}v12"/>'
    )


def _curves(result: Result) -> str:
    """Return the median course of the metric for at most six choices, with a key."""
    sign = -1.0 if result.higher_is_better else 1.0
    known = [row for row in result.rows if row.metric is not None]
    shown = sorted(known, key=lambda row: sign * (row.metric or 0.0))[:CURVES_MAX]
    lines = [_line(result, row.choice) for row in shown]
    title = f"{result.metric} on the held-out data, median over the seeds"
    if len(shown) < len(result.rows):
        title += ", of the six best choices" if len(shown) == CURVES_MAX else ""
    key = "".join(
        f'<span><i class="key c{i}"></i>{_text(line.name)}</span>' for i, line in enumerate(lines)
    )
    return _figure(plot(lines, title=title, x_name="step"), f"{_text(title)}{key}")


def _line(result: Result, choice: str) -> Line:
    values: dict[int, list[float]] = {}
    for outcome in result.outcomes:
        for step, value in outcome.curve if outcome.choice == choice else ():
            if value is not None:
                values.setdefault(step, []).append(value)
    steps: Sequence[int] = sorted(values)
    return Line(choice, np.array(steps, float), np.array([median(values[s]) for s in steps], float))


def _figure(image: str, caption: str) -> str:
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _text(text: str) -> str:
    return escape(clean(text))
