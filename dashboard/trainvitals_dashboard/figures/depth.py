"""A statistic of each layer at one time, in order of depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def through_depth(
    lines: Mapping[str, Mapping[str, float]], *, dark: bool, here: str = ""
) -> Option:
    """Return one point per layer, first layer at the left; `here` is the layer of the finding.

    `lines` maps the name of each line to its value at each layer. The layers of the first line are
    the axis, and a layer that another line lacks is bridged.
    """
    colours = palette(dark)
    layers = list(dict.fromkeys(layer for line in lines.values() for layer in line))
    values = [value for line in lines.values() for value in line.values()]
    # Zero cannot be drawn on a logarithmic axis; the curve has a gap there.
    log = is_log([v for v in values if v > 0]) and min(values) >= 0
    names = [shortened(layer, 24) for layer in layers]
    series = [
        _line(name, _points(line, layers, names, log=log), colours.line[i % len(colours.line)])
        for i, (name, line) in enumerate(lines.items())
    ]
    first = next(iter(lines.values()), {})
    at = [p for p in _points(first, layers, names, log=log) if layers[p[0]] == here]
    return {
        "animation": False,
        "grid": {
            "left": 8,
            "right": 16,
            "top": 34 if len(lines) > 1 else 14,
            "bottom": 6,
            "containLabel": True,
        },
        "legend": {"show": len(lines) > 1, "top": 0, "left": 0, "icon": "roundRect"},
        "tooltip": {
            "trigger": "item" if len(lines) > 1 else "axis",
            "confine": True,
            "formatter": "{@[2]}<br/><b>{@[3]}</b>",
        },
        "xAxis": {
            "type": "category",
            "data": names,
            "axisLabel": {"rotate": 40, "fontSize": 10, "hideOverlap": True},
        },
        "yAxis": {"type": "value", "splitNumber": 4, "scale": True, **(DECADES if log else {})},
        "series": [*series, *([_marker(at, colours.severity["error"])] if at else [])],
    }


def _marker(at: list[list[Any]], colour: str) -> Option:
    return {
        "name": "found here",
        "type": "scatter",
        "data": at,
        "symbol": "diamond",
        "symbolSize": 15,
        "silent": True,
        "itemStyle": {"color": colour},
        "z": 5,
    }


def _points(
    line: Mapping[str, float], layers: Sequence[str], names: Sequence[str], *, log: bool
) -> list[list[Any]]:
    points: list[list[Any]] = []
    for i, layer in enumerate(layers):
        if (value := line.get(layer)) is not None:
            height = value if not log else math.log10(value) if value > 0 else None
            points.append([i, height, names[i], number(value)])
    return points


def _line(name: str, points: list[list[Any]], colour: str) -> Option:
    return {
        "name": name,
        "type": "line",
        "data": points,
        "symbol": "circle",
        "symbolSize": 6,
        "showSymbol": True,
        "lineStyle": {"color": colour, "width": 1.6},
        "itemStyle": {"color": colour},
    }
