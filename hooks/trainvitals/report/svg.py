"""Draw curves as an SVG image, for a page that loads nothing.

Comes in: lines of numbers. Goes out: SVG as text, with the classes that page_style.py colours.
Promise:  names are escaped; at most 2 × POINTS_MAX points per line, with the extremes kept.
Start at `plot`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.api.wording import number
from trainvitals.report.sparkline import LOG_FROM
from trainvitals.report.text import clean

Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 24
NAME_WIDTH = 55
"""Space at the right end of the x axis for its name."""
POINTS_MAX = 300
TICKS = 5


class Line(NamedTuple):
    """One curve: `x` ascending and finite, `y` of the same length; NaN was not measured."""

    name: str
    x: Floats
    y: Floats


class Marker(NamedTuple):
    """A vertical line at a step, for a finding of this severity."""

    x: float
    text: str
    severity: str


class Scale(NamedTuple):
    """The range of an axis, and whether it is logarithmic."""

    low: float
    high: float
    is_log: bool = False

    def share(self, values: npt.ArrayLike) -> Floats:
        """Return the positions of `values` on the axis, 0 at `low` and 1 at `high`."""
        given = np.asarray(values, np.float64)
        low, high = self.low, self.high
        if self.is_log:
            given = np.log10(np.where(given > 0, given, np.nan))
            low, high = math.log10(low), math.log10(high)
        shares: Floats = (given - low) / (high - low)
        return shares

    def ticks(self) -> list[float]:
        """Return some round values of the axis."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, math.ceil((last - first) / TICKS))
            return [10.0**power for power in range(first, last + 1, every)]
        span = (self.high - self.low) / TICKS
        size = 10.0 ** math.floor(math.log10(span))
        step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= span)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]


def plot(
    lines: Sequence[Line],
    *,
    title: str,
    x_name: str,
    markers: Sequence[Marker] = (),
    may_be_log: bool = True,
) -> str:
    """Return the lines in one image; "" if no line has a finite point.

    Positive values over more than two decades have a logarithmic axis, if `may_be_log`. A point
    that is ±Inf is drawn as × at the top.
    """
    drawn = [line for line in map(_finite, lines) if len(line.x)]
    if not drawn:
        return ""
    across = _linear(np.concatenate([line.x for line in lines if len(line.x)]))
    up = _vertical(np.concatenate([line.y for line in drawn]), may_be_log=may_be_log)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(title)}">',
        f"<title>{_text(title)}</title>",
        *_axes(across, up, x_name),
        *(_marker(marker, across) for marker in markers if across.low <= marker.x <= across.high),
        *(_line(line, i, across, up) for i, line in enumerate(lines)),
        "</svg>",
    ]
    return "".join(parts)


def _finite(line: Line) -> Line:
    keep = np.isfinite(line.y)
    return Line(line.name, line.x[keep], line.y[keep])


def _linear(values: Floats) -> Scale:
    low, high = float(values.min()), float(values.max())
    if high == low:
        room = abs(low) * 0.1 or 1.0
        return Scale(low - room, high + room)
    return Scale(low, high)


def _vertical(values: Floats, *, may_be_log: bool) -> Scale:
    positive = values[values > 0]
    # Zeros among positive values over many decades are left out, as a gradient norm of 0.
    is_wide = len(positive) and positive.max() / positive.min() > LOG_FROM
    if may_be_log and is_wide and values.min() >= 0:
        return Scale(float(positive.min()) / 1.3, float(positive.max()) * 1.3, is_log=True)
    scale = _linear(values)
    room = (scale.high - scale.low) * 0.05
    return Scale(scale.low - room, scale.high + room)


def _axes(across: Scale, up: Scale, x_name: str) -> list[str]:
    parts = []
    for value in up.ticks():
        y = _down(up, value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
        )
    for value in across.ticks():
        x = _right(across, value)
        if value == int(value) and x < WIDTH - NAME_WIDTH:
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(value)}</text>'
            )
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text class="dim" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">'
        f"{_text(x_name)}</text>"
    )
    return parts


def _marker(marker: Marker, across: Scale) -> str:
    x = _right(across, marker.x)
    return (
        f'<path class="marker {marker.severity}" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}">'
        f"<title>{_text(marker.text)}</title></path>"
    )


def _line(line: Line, at: int, across: Scale, up: Scale) -> str:
    infinite = line.x[np.isinf(line.y)]
    reduced = reduce(line)
    x = LEFT + across.share(reduced.x) * (WIDTH - LEFT - RIGHT)
    y = HEIGHT - BOTTOM - up.share(reduced.y) * (HEIGHT - TOP - BOTTOM)
    path, pen = [], "M"
    for i in range(len(x)):
        if not math.isfinite(y[i]):
            pen = "M"
            continue
        path.append(f"{pen}{x[i]:.1f} {y[i]:.1f}")
        pen = "L"
    if len(path) == 1:
        path.append("h0.1")  # a single point: the round cap makes it visible
    crosses = "".join(
        f'<text class="error" x="{_right(across, step):.1f}" y="{TOP + 4}" '
        'text-anchor="middle">×</text>'
        for step in infinite[:20]
    )
    name = _text(line.name)
    return f'<path class="line c{at % 6}" d="{"".join(path)}"><title>{name}</title></path>{crosses}'


def reduce(line: Line) -> Line:
    """Return at most 2 × POINTS_MAX points: the lowest and the highest of each bucket."""
    if len(line.x) <= 2 * POINTS_MAX:
        return line
    kept: list[int] = []
    for bucket in np.array_split(np.arange(len(line.x)), POINTS_MAX):
        y = line.y[bucket]
        known = bucket[np.isfinite(y)]
        if not len(known):
            kept.append(int(bucket[0]))  # a gap stays a gap
            continue
        ends = {int(known[np.argmin(line.y[known])]), int(known[np.argmax(line.y[known])])}
        kept.extend(sorted(ends))
    return Line(line.name, line.x[kept], line.y[kept])


def _right(across: Scale, value: float) -> float:
    return LEFT + float(across.share(value)) * (WIDTH - LEFT - RIGHT)


def _down(up: Scale, value: float) -> float:
    return HEIGHT - BOTTOM - float(up.share(value)) * (HEIGHT - TOP - BOTTOM)


def _text(text: str) -> str:
    return escape(clean(text))
