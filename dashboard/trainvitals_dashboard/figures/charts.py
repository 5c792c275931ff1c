"""The description of the charts of a board: points, marks and limits as the browser draws them.

Comes in: curves, findings and dropped intervals of the API.
Goes out: dictionaries of JSON values; dashboard/board/src/chart.js reads them.
Promise:  names are plain text; numbers have seven significant digits, as float32 has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainvitals.api.schema import Curve
from trainvitals_dashboard.figures.curves import Line, Marks, is_log, rounded
from trainvitals_dashboard.figures.depth import endings
from trainvitals_dashboard.figures.palette import palette
from trainvitals_dashboard.wording import SEVERITIES, SEVERITY_SIGN, clean, shortened

Part = dict[str, Any]
MARKS_APART = 0.03
"""Findings whose first steps are closer than this share of all steps have one mark."""
CODES_MAX = 3
LAYER_MAX = 80
LABEL_MAX = 20
"""Characters of the name of a layer above the chart, and at its axis."""
NO_MARKS = Marks()
COLUMNS = ("step", "last", "mean", "min", "max", "count", "bad")
"""As in dashboard/board/src/points.js."""


@dataclass(frozen=True)
class Chart:
    """One chart of a board."""

    key: str
    title: str
    marks: Marks = NO_MARKS
    height: int = 240
    """CSS pixels."""
    wide: bool = False
    """As wide as the board; others are half as wide on wide screens."""
    log_allowed: bool = True
    """The axis may be logarithmic at first; the visitor can change it in any case."""
    clicks: bool = False
    """A click on a point is reported."""
    filled: bool = False
    """The area between the first and the last curve is filled."""
    from_zero: bool = False
    """The vertical axis contains 0."""


def over_steps(chart: Chart, lines: Sequence[Line], steps: int) -> Part:
    """Return the description of a chart of curves of a run with `steps` steps."""
    values = [v for line in lines for v in (*line.curve.min, *line.curve.max) if v is not None]
    return {
        "key": chart.key,
        "height": chart.height,
        "alt": f"{clean(chart.title)} over steps",
        "log": chart.log_allowed and is_log(values),
        "clicks": chart.clicks,
        "filled": chart.filled,
        "fromZero": chart.from_zero,
        "series": [
            {"place": line.curve.place, "name": clean(line.name), "points": points(line.curve)}
            for line in lines
        ],
        **meta(chart, steps),
    }


def over_layers(chart: Chart, lines: Mapping[str, Mapping[str, float]], *, here: str = "") -> Part:
    """Return a chart with one point per layer, first layer at the left.

    `lines` maps the name of each line to its value at each layer; a layer that a line lacks is
    bridged. `here` is the layer of the finding, which is marked. The axis has the ends of the names
    in which they differ.
    """
    layers = list(dict.fromkeys(layer for line in lines.values() for layer in line))
    values = [value for line in lines.values() for value in line.values()]
    return {
        "key": chart.key,
        "height": chart.height,
        "alt": f"{clean(chart.title)} of each layer, from the first to the last",
        # Zero has no place on a logarithmic axis; the line has a gap there.
        "log": is_log([v for v in values if v > 0]) and min(values) >= 0,
        "layers": [shortened(layer, LAYER_MAX) for layer in layers],
        "labels": [shortened(end, LABEL_MAX) for end in endings(layers)],
        "here": layers.index(here) if here in layers else None,
        "series": [
            {
                "place": name,
                "name": clean(name),
                "points": {
                    "step": [i for i, layer in enumerate(layers) if layer in line],
                    "mean": [rounded(line[layer]) for layer in layers if layer in line],
                },
            }
            for name, line in lines.items()
        ],
        "title": clean(chart.title),
        "wide": chart.wide,
    }


def meta(chart: Chart, steps: int) -> Part:
    """Return what may change while the points of a chart only grow."""
    marks = chart.marks
    limit = marks.threshold
    return {
        "title": clean(chart.title),
        "wide": chart.wide,
        "marks": _marks(marks, steps),
        "dropped": [
            {
                "first": d.first_step,
                "last": d.last_step,
                "text": f"lost: {clean(d.reason).replace('_', ' ')}",
            }
            for d in marks.dropped
        ],
        "limit": (
            {"value": rounded(limit), "text": clean(marks.threshold_name)}
            if limit is not None and math.isfinite(limit)
            else None
        ),
    }


def points(curve: Curve, after: int = -1) -> Part:
    """Return the buckets that begin after the step `after`, as columns.

    A column that follows from another one is left out: `last` if each bucket is one step, `min`,
    `max` and `count` if each has one value, `bad` if all values are finite.
    """
    kept = [i for i, step in enumerate(curve.step) if step > after]
    made: Part = {
        "step": [curve.step[i] for i in kept],
        "mean": [rounded(curve.mean[i]) for i in kept],
    }
    if any(curve.last_step[i] != curve.step[i] for i in kept):
        made["last"] = [curve.last_step[i] for i in kept]
    if any(curve.count[i] > 1 for i in kept):
        made["min"] = [rounded(curve.min[i]) for i in kept]
        made["max"] = [rounded(curve.max[i]) for i in kept]
        made["count"] = [curve.count[i] for i in kept]
    if any(curve.nonfinite[i] for i in kept):
        made["bad"] = [curve.nonfinite[i] for i in kept]
    return made


def unnamed(columns: Part) -> list[Any]:
    """Return the columns of `points` in the order of COLUMNS, None for one that follows."""
    made = [columns.get(name) for name in COLUMNS]
    while made[-1] is None:
        made.pop()
    return made


def colours() -> Part:
    """Return the colours of both themes; the browser knows which one is shown."""
    return {name: asdict(palette(name == "dark")) for name in ("light", "dark")}


def _marks(marks: Marks, steps: int) -> list[Part]:
    at: dict[int, list[Any]] = {}
    for finding in sorted(marks.findings, key=lambda f: f.since_step):
        near = [s for s in at if finding.since_step - s <= MARKS_APART * steps]
        at.setdefault(near[-1] if near else finding.since_step, []).append(finding)
    made = []
    for step, here in at.items():
        here.sort(key=lambda f: _order(f.severity))
        codes = list(dict.fromkeys(clean(f.code) for f in here))
        more = f" +{len(codes) - CODES_MAX}" if len(codes) > CODES_MAX else ""
        sign = SEVERITY_SIGN.get(here[0].severity, "●")
        text = f"{sign} {' '.join(codes[:CODES_MAX])}{more}"
        made.append({"step": step, "text": text, "severity": here[0].severity})
    # The browser draws a mark without a known severity in grey.
    resumed = [{"step": step, "text": "↻ resumed", "severity": ""} for step in marks.resumed]
    return made + resumed


def _order(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
