"""A heat-map of one statistic of all layers over all steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainvitals.api.schema import Heatmap
from trainvitals.api.wording import number
from trainvitals_dashboard.figures.palette import Option, palette
from trainvitals_dashboard.wording import shortened

ROWS_MAX = 120
ROW_HEIGHT = 18
LABEL_MAX = 26


@dataclass(frozen=True)
class HeatFigure:
    """An ECharts option, its height, and the place of each cell."""

    option: Option
    height: int
    cells: list[str]
    """The place of each cell: index of a selected item → place."""
    left_out: int
    """Number of places that are not drawn."""
    scale: str
    """log, diverging or linear."""


def heat(
    data: Heatmap, *, dark: bool, signs: Mapping[str, str] | None = None, narrow: bool = False
) -> HeatFigure:
    """Return the heat-map, first layer at the top.

    `signs`: place → sign of its finding, shown before its name. The colour scale is logarithmic if
    no value is negative and the positive values span more than a decade. It is centred on zero if
    any value is negative. Cells without a measurement are empty.
    """
    # Streamlit sends many cells only as a data frame. Imported here because it takes 0.3 s.
    import pandas as pd  # type: ignore[import-untyped]  # without stubs

    colours = palette(dark)
    places = data.places[:ROWS_MAX]
    finite = [v for row in data.values for v in row if v is not None and math.isfinite(v)]
    positive = [v for v in finite if v > 0]
    negative = any(v < 0 for v in finite)
    log = not negative and bool(positive) and max(positive) / min(positive) > 10
    floor = math.floor(math.log10(min(positive))) if log else 0.0
    columns: dict[str, list[Any]] = {
        "column": [],
        "row": [],
        "colour": [],
        "layer": [],
        "step": [],
        "value": [],
    }
    for row, place in enumerate(places):
        for column, value in enumerate(data.values[row]):
            if value is None:
                continue
            columns["column"].append(column)
            columns["row"].append(row)
            columns["colour"].append(_colour(value, log, floor))
            columns["layer"].append(place)
            columns["step"].append(f"{data.steps[column]:,}")
            columns["value"].append(number(value))
    labels = [_label(place, signs or {}, narrow) for place in places]
    low, high = _range(columns["colour"], negative)
    option: Option = {
        "animation": False,
        "grid": {"left": 4, "right": 8, "top": 6, "bottom": 58, "containLabel": True},
        "tooltip": {
            "confine": True,
            "formatter": "{@layer}<br/>step {@step}<br/><b>{@value}</b>",
        },
        "dataset": {"source": pd.DataFrame(columns)},
        "xAxis": {
            "type": "category",
            "data": [f"{step:,}" for step in data.steps],
            "axisLabel": {"hideOverlap": True, "interval": max(0, len(data.steps) // 8 - 1)},
            "axisTick": {"show": False},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "category",
            "data": labels,
            "inverse": True,
            "axisTick": {"show": False},
            "axisLine": {"show": False},
            "axisLabel": {"fontSize": 11, "interval": 0 if len(places) <= 60 else "auto"},
            "splitLine": {"show": False},
        },
        "visualMap": {
            "type": "continuous",
            "dimension": 2,
            "min": low,
            "max": high,
            "calculable": False,
            "orient": "horizontal",
            "left": "center",
            "bottom": 0,
            "itemHeight": 160,
            "itemWidth": 12,
            "text": _ends(low, high, log),
            "inRange": {"color": list(colours.diverging if negative else colours.sequential)},
        },
        "series": [
            {
                "type": "heatmap",
                "encode": {"x": "column", "y": "row", "value": "colour"},
                "selectedMode": "single",
                "progressive": 0,
                "itemStyle": {"borderWidth": 0},
                "emphasis": {"itemStyle": {"borderColor": colours.muted, "borderWidth": 1}},
                "select": {"itemStyle": {"borderColor": colours.severity["error"]}},
            }
        ],
    }
    return HeatFigure(
        option,
        max(180, 84 + ROW_HEIGHT * len(places)),
        columns["layer"],
        len(data.places) - len(places),
        "log" if log else "diverging" if negative else "linear",
    )


def _colour(value: float, log: bool, floor: float) -> float:
    if not log:
        return value
    # Zero has no logarithm: it is drawn one decade below the lowest decade.
    return math.log10(value) if value > 0 else floor - 1


def _range(values: list[float], both_signs: bool) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if both_signs:
        reach = max(abs(low), abs(high))
        return -reach, reach
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ends(low: float, high: float, log: bool) -> list[str]:
    if log:
        return [number(10.0**high), number(10.0**low)]
    return [number(high), number(low)]


def _label(place: str, signs: Mapping[str, str], narrow: bool) -> str:
    name = shortened(place, 16 if narrow else LABEL_MAX)
    return f"{signs[place]} {name}" if place in signs else name
