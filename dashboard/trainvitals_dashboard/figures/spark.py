"""A sparkline: a small curve without axes, as an SVG image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainvitals_dashboard.figures.curves import is_log
from trainvitals_dashboard.figures.palette import palette

WIDTH, HEIGHT = 160, 44
MARGIN = 4.0


def sparkline(values: Sequence[float | None], *, dark: bool, severity: str = "healthy") -> str:
    """Return the loss without axes, with its last point marked; see `is_log` for the scale.

    The line is broken where a value is missing or not finite. The image contains numbers only.
    """
    colours = palette(dark)
    known = [v for v in values if v is not None and math.isfinite(v)]
    log = is_log(known)
    colour = colours.severity["error"] if severity in ("error", "failed") else colours.line[0]
    heights = [_height(v, log) for v in values]
    drawn = [h for h in heights if h is not None]
    low, high = min(drawn, default=0.0), max(drawn, default=0.0)
    points: list[list[tuple[float, float]]] = [[]]
    for i, height in enumerate(heights):
        if height is None:
            points.append([])
            continue
        share = (height - low) / (high - low) if high > low else 0.5
        x = MARGIN + (WIDTH - 2 * MARGIN) * i / max(1, len(heights) - 1)
        points[-1].append((x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share))
    lines = "".join(_line(part, colour) for part in points if part)
    end = next((part[-1] for part in reversed(points) if part), None)
    dot = f'<circle cx="{end[0]:.1f}" cy="{end[1]:.1f}" r="3" fill="{colour}"/>' if end else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">{lines}{dot}</svg>'
    )


def _height(value: float | None, log: bool) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return math.log10(value) if log else value


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" '
        'stroke-linejoin="round" stroke-linecap="round"/>'
    )
