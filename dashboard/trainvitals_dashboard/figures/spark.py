"""A sparkline: a small curve without axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainvitals_dashboard.figures.curves import is_log
from trainvitals_dashboard.figures.palette import Option, palette


def sparkline(values: Sequence[float | None], *, dark: bool, severity: str = "healthy") -> Option:
    """Return the loss without axes, with its last point marked; see `is_log` for the scale."""
    colours = palette(dark)
    known = [v for v in values if v is not None and math.isfinite(v)]
    log = is_log(known)
    line = colours.severity["error"] if severity in ("error", "failed") else colours.line[0]
    points = [[i, v] for i, v in enumerate(values)]
    last = next((p for p in reversed(points) if p[1] is not None), None)
    return {
        "animation": False,
        "grid": {"left": 2, "right": 6, "top": 5, "bottom": 5},
        "tooltip": {"show": False},
        "xAxis": {"type": "value", "show": False, "min": 0, "max": max(1, len(values) - 1)},
        "yAxis": {"type": "log" if log else "value", "show": False, "scale": True},
        "series": [
            {
                "type": "line",
                "data": points,
                "showSymbol": False,
                "silent": True,
                "lineStyle": {"width": 1.6, "color": line},
            },
            {
                "type": "scatter",
                "data": [last] if last else [],
                "symbolSize": 6,
                "silent": True,
                "itemStyle": {"color": line},
            },
        ],
    }
