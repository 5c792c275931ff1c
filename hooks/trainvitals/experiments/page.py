"""The result as one HTML page without external parts: verdict, intervals, table, curves.

Comes in: a `Result`. Goes out: HTML. Names of choices and headlines are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Final

from trainvitals.remedies.table import number

if TYPE_CHECKING:
    from trainvitals.experiments.result import Result, Row

WIDTH, ROW_HEIGHT, LEFT, CURVES_HEIGHT = 720, 26, 170, 260
COLOURS: Final = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b58900",
    "#56b4e9",
    "#7f7f7f",
    "#8c564b",
)
"""Told apart with a colour vision deficiency (Okabe & Ito 2008); the dashes differ too."""
DASHES: Final = ("none", "6 3", "2 3", "8 3 2 3")

STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child, td:last-child { text-align: left; }
tr.best td { font-weight: 600; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
svg text { fill: currentColor; font-size: 12px; }
"""


def page(result: Result) -> str:
    """Return the page."""
    from trainvitals.experiments.result import HEADER, cells

    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in HEADER)
    body = "".join(
        f"<tr{' class=best' if row.choice == result.best else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
        + "</tr>"
        for row in result.rows
    )
    title = f"{result.best} is the best choice" if result.best else "No proven winner"
    notes = "".join(f"<p>{escape(note)}</p>" for note in result.notes)
    better = "higher is better" if result.higher_is_better else "lower is better"
    about = f"{result.metric} ({better}), {result.steps} steps, {len(result.seeds)} seeds"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(result.reason)}</p>{notes}"
        f"<h2>{escape(about)}</h2><div class=wide>{_intervals(result.rows, result.metric)}</div>"
        f"<h2>Every choice</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        f"<h2>Course of the metric</h2><div class=wide>{_curves(result)}</div>"
        "<p>Lines: the median over the seeds, on the held-out data. Final losses are each choice's "
        "own and have different units where the loss varies.</p></body></html>"
    )


def _intervals(rows: Sequence[Row], metric: str) -> str:
    """Return an SVG with the mean and the 95 % interval of each choice."""
    ends = [v for r in rows for v in (r.low, r.high, r.metric) if v is not None]
    scale = _Scale(ends, LEFT, WIDTH - 20)
    height = ROW_HEIGHT * len(rows) + 30
    parts = []
    for i, row in enumerate(rows):
        y = ROW_HEIGHT * i + 20
        parts.append(f'<text x="0" y="{y + 4}">{escape(row.choice[:24])}</text>')
        if row.metric is None or row.low is None or row.high is None:
            parts.append(f'<text x="{LEFT}" y="{y + 4}">diverged</text>')
            continue
        parts.append(
            f'<line x1="{scale(row.low):.1f}" x2="{scale(row.high):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{COLOURS[0]}" stroke-width="3"/>'
            f'<circle cx="{scale(row.metric):.1f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>'
        )
    parts += [
        f'<text x="{LEFT}" y="{height - 2}">{number(scale.low)}</text>',
        f'<text x="{WIDTH - 20}" y="{height - 2}" text-anchor="end">{number(scale.high)}</text>',
    ]
    return _svg(height, f"Mean and 95 % interval of the {metric} for each choice", parts)


def _curves(result: Result) -> str:
    """Return an SVG with the median course of the metric for each choice, and a legend."""
    courses = {row.choice: _course(result, row.choice) for row in result.rows}
    scale = _Scale([v for course in courses.values() for _, v in course], CURVES_HEIGHT - 20, 10)
    parts = [
        f'<text x="0" y="14">{number(scale.high)}</text>',
        f'<text x="0" y="{CURVES_HEIGHT - 16}">{number(scale.low)}</text>',
        f'<text x="{WIDTH - 20}" y="{CURVES_HEIGHT - 2}" text-anchor="end">'
        f"step {result.steps}</text>",
    ]
    for i, (name, course) in enumerate(courses.items()):
        style = (
            f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-width="2" fill="none" '
            f'stroke-dasharray="{DASHES[i // len(COLOURS) % len(DASHES)]}"'
        )
        points = " ".join(
            f"{60 + (WIDTH - 80) * step / result.steps:.1f},{scale(value):.1f}"
            for step, value in course
        )
        y = CURVES_HEIGHT + 18 * i + 14
        parts.append(
            f'<polyline points="{points}" {style}/>'
            f'<line x1="60" x2="90" y1="{y - 4}" y2="{y - 4}" {style}/>'
            f'<text x="98" y="{y}">{escape(name)}</text>'
        )
    height = CURVES_HEIGHT + 18 * len(courses) + 10
    return _svg(height, f"Course of the {result.metric} for each choice", parts)


def _course(result: Result, choice: str) -> list[tuple[int, float]]:
    values: dict[int, list[float]] = {}
    for outcome in result.outcomes:
        for step, value in outcome.curve if outcome.choice == choice else ():
            if value is not None:
                values.setdefault(step, []).append(value)
    return [(step, median(found)) for step, found in sorted(values.items())]


class _Scale:
    """Maps values linearly to pixels from `start` to `end`."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        finite = [v for v in values if math.isfinite(v)]
        self.low, self.high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return self._start + share * (self._end - self._start)


def _svg(height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
