"""A statistic of each layer at one time, in order of depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainvitals.api.schema import Heatmap, Place
from trainvitals.api.wording import number
from trainvitals_dashboard.figures.curves import DECADES, Option, is_log
from trainvitals_dashboard.figures.palette import palette
from trainvitals_dashboard.wording import shortened


def newest_by_place(data: Heatmap) -> dict[str, float]:
    """Return the newest mean of each place that has a value, in order of depth."""
    newest = {}
    for place, row in zip(data.places, data.values, strict=True):
        value = next((v for v in reversed(row) if v is not None), None)
        if value is not None:
            newest[place] = value
    return newest


def per_entry(norms: Mapping[str, float], places: Mapping[str, Place]) -> dict[str, float]:
    """Return the RMS of each weight matrix from its L2 norm, which grows with the size."""
    return {
        name: norm / math.sqrt(math.prod(places[name].shape))
        for name, norm in norms.items()
        if name in places and len(places[name].shape) > 1 and math.prod(places[name].shape) > 0
    }


def through_depth(values: Mapping[str, float], *, dark: bool, here: str = "") -> Option:
    """Return one point per layer, first layer at the left; `here` is the layer of the finding."""
    colours = palette(dark)
    # Zero cannot be drawn on a logarithmic axis; the curve has a gap there.
    log = is_log([v for v in values.values() if v > 0]) and min(values.values()) >= 0
    names = [shortened(name, 24) for name in values]
    points: list[list[Any]] = []
    for i, value in enumerate(values.values()):
        height = value if not log else math.log10(value) if value > 0 else None
        points.append([i, height, names[i], number(value)])
    at = [point for point, name in zip(points, values, strict=True) if name == here]
    return {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": 14, "bottom": 6, "containLabel": True},
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "formatter": "{@[2]}<br/><b>{@[3]}</b>",
        },
        "xAxis": {
            "type": "category",
            "data": names,
            "axisLabel": {"rotate": 40, "fontSize": 10, "hideOverlap": True},
        },
        "yAxis": {"type": "value", "splitNumber": 4, "scale": True, **(DECADES if log else {})},
        "series": [
            {
                "name": "RMS",
                "type": "line",
                "data": points,
                "symbol": "circle",
                "symbolSize": 6,
                "showSymbol": True,
                "lineStyle": {"color": colours.line[0], "width": 1.6},
                "itemStyle": {"color": colours.line[0]},
            },
            {
                "name": "found here",
                "type": "scatter",
                "data": at,
                "symbol": "diamond",
                "symbolSize": 15,
                "silent": True,
                "itemStyle": {"color": colours.severity["error"]},
                "z": 5,
            },
        ],
    }
