"""Curves over steps: mean, range from min to max, marks for findings, and gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainvitals.api.schema import Curve, Dropped, Finding
from trainvitals.api.wording import number
from trainvitals_dashboard.figures.palette import Palette, palette
from trainvitals_dashboard.wording import SEVERITIES, SEVERITY_SIGN, clean

Option = dict[str, Any]
LOG_FROM = 50.0
"""Ratio of largest to smallest value above which an axis is logarithmic."""
GAP_FACTOR = 4
"""A distance more than this many times larger than both adjacent distances is a gap."""
MARKS_MAX = 8
MARKS_APART = 0.03
"""Findings whose first steps are closer than this share of the width have one mark."""
DECADES: Option = {"minInterval": 1, "axisLabel": {"formatter": "1e{value}"}}
"""For values drawn as logarithms. ECharts labels its own logarithmic axis with all digits
(0.0000001), which is hard to read."""


@dataclass(frozen=True)
class Line:
    """A curve and its name."""

    name: str
    curve: Curve


@dataclass(frozen=True)
class Marks:
    """Findings, gaps and limits that are drawn over curves."""

    findings: Sequence[Finding] = ()
    dropped: Sequence[Dropped] = ()
    threshold: float | None = None
    threshold_name: str = ""


@dataclass(frozen=True)
class StepRange:
    """The range of steps; None means no limit."""

    first: int | None = None
    last: int | None = None

    def shows(self, step: int) -> bool:
        """Return whether `step` is in the range."""
        return (self.first or 0) <= step and (self.last is None or step <= self.last)


@dataclass(frozen=True)
class _Heights:
    """The conversion from a value to its height in the chart, and the axis options for it."""

    of: Callable[[float], float]
    axis: Option


@dataclass
class _Drawn:
    mean: list[list[Any]] = field(default_factory=list)
    band: list[list[Any]] = field(default_factory=list)
    nonfinite: list[float] = field(default_factory=list)


def curves(
    lines: Sequence[Line],
    *,
    dark: bool,
    marks: Marks | None = None,
    window: StepRange | None = None,
    brush: bool = False,
    log_allowed: bool = True,
) -> Option:
    """Return the option of a chart of `lines`; `brush`: a range of steps can be selected."""
    marks, window = marks or Marks(), window or StepRange()
    colours = palette(dark)
    drawn = [_draw(line.curve, marks.dropped) for line in lines]
    values = [v for d in drawn for points in (d.mean, d.band) for _, v in points if v is not None]
    log = log_allowed and is_log(values)
    heights = _heights(values, log)
    if heights is not None:
        drawn, values = [_lifted(d, heights) for d in drawn], [heights.of(v) for v in values]
        marks = _lifted_marks(marks, heights, log)
    top = max(values, default=1.0)
    series: list[Option] = []
    for i, (line, d) in enumerate(zip(lines, drawn, strict=True)):
        colour = colours.line[i % len(colours.line)]
        series += _series(line, d, colour, top)
    if series:
        extent = (_largest(drawn, window) or 0) - (_least(drawn, window) or 0)
        series[0] |= _marked(marks, window, colours, extent)
    option: Option = {
        "animation": False,
        "grid": {
            "left": 8,
            "right": 20,
            # Space for the legend, the brush and the names of gaps, if there are any.
            "top": 34 if brush or len(lines) > 1 or marks.dropped else 12,
            "bottom": 6,
            "containLabel": True,
        },
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "axisPointer": {"type": "line"},
            **({"formatter": "step {@[0]}<br/><b>{@[2]}</b>"} if heights else {}),
        },
        "xAxis": {
            "type": "value",
            "min": _least(drawn, window),
            "max": _largest(drawn, window),
            "minInterval": 1,
            "splitNumber": 4,
            "splitLine": {"show": False},
            "axisLabel": {"hideOverlap": True},
            "axisPointer": {"label": {"precision": 0}},
        },
        "yAxis": _y_axis(log and heights is None, marks.threshold, values)
        | (heights.axis if heights else {}),
        "series": series,
    }
    if len(lines) > 1:
        names = [clean(line.name) for line in lines]
        option["legend"] = {"data": names, "top": 0, "type": "scroll", "left": 0}
    if brush:
        option["toolbox"] = {
            "right": 8,
            "top": 6,
            "itemSize": 14,
            "itemGap": 8,
            "feature": {
                "brush": {
                    "type": ["lineX", "clear"],
                    "title": {"lineX": "Select steps", "clear": "Clear"},
                }
            },
        }
        option["brush"] = {
            "xAxisIndex": "all",
            "brushType": "lineX",
            "throttleType": "debounce",
            "throttleDelay": 300,
        }
    return option


def is_log(values: Iterable[float]) -> bool:
    """Return whether to use a logarithmic axis: all values positive, ratio above LOG_FROM."""
    known = list(values)
    return bool(known) and min(known) > 0 and max(known) / min(known) > LOG_FROM


def rounded(value: float | None) -> float | None:
    """Return the value to seven significant digits; integers are returned unchanged.

    The collector stores float32. 0.01 in float32 is 0.009999999776 as a Python float, and ECharts
    prints every digit of it in tooltips and axis labels.
    """
    if value is None or not math.isfinite(value) or float(value).is_integer():
        return value
    return float(f"{value:.7g}")


def gaps(curve: Curve, dropped: Sequence[Dropped] = ()) -> set[int]:
    """Return the indices of buckets that follow a gap.

    A gap is an interval that the training process reported as dropped, or a distance much larger
    than the distances before and after it. At a change of cadence only one of the two is smaller.
    """
    distances = [curve.step[i] - curve.last_step[i - 1] for i in range(1, len(curve.step))]
    found = set()
    for i, distance in enumerate(distances, start=1):
        before, after = curve.last_step[i - 1], curve.step[i]
        if any(before < d.first_step and d.last_step < after for d in dropped):
            found.add(i)
        elif 1 < i < len(distances):
            usual = max(distances[i - 2], distances[i], 1)
            if distance > GAP_FACTOR * usual:
                found.add(i)
    return found


def _draw(curve: Curve, dropped: Sequence[Dropped]) -> _Drawn:
    drawn = _Drawn()
    broken = gaps(curve, dropped)
    for i, first in enumerate(curve.step):
        if i in broken:
            drawn.mean.append([first, None])
            drawn.band.append([first, None])
        middle = (first + curve.last_step[i]) / 2
        drawn.mean.append([middle, rounded(curve.mean[i])])
        low, high = rounded(curve.min[i]), rounded(curve.max[i])
        if low is not None and high is not None:
            # A vertical line from min to max in each bucket keeps a spike of one step visible at
            # any zoom. Unlike a stacked area, it is correct on a logarithmic axis.
            drawn.band += [[middle, low], [middle, high], [middle, None]]
        if curve.nonfinite[i]:
            drawn.nonfinite.append(middle)
    return drawn


def _heights(values: Sequence[float], log: bool) -> _Heights | None:
    """Return the conversion for very small or large numbers, None if none is needed."""
    if log:
        if min(values) >= 1e-4 and max(values) < 1e6:
            return None
        return _Heights(math.log10, DECADES)
    reach = max(map(abs, values), default=1.0)
    if reach == 0 or 1e-3 <= reach < 1e6:
        return None
    exponent = math.floor(math.log10(reach))
    return _Heights(
        lambda value: value / 10.0**exponent, {"axisLabel": {"formatter": f"{{value}}e{exponent}"}}
    )


def _lifted(drawn: _Drawn, heights: _Heights) -> _Drawn:
    def lifted(points: list[list[Any]]) -> list[list[Any]]:
        return [
            [x, None if v is None else heights.of(v), "–" if v is None else number(v)]
            for x, v in points
        ]

    return _Drawn(lifted(drawn.mean), lifted(drawn.band), drawn.nonfinite)


def _lifted_marks(marks: Marks, heights: _Heights, log: bool) -> Marks:
    limit = marks.threshold
    if limit is None or (log and limit <= 0):
        return replace(marks, threshold=None)
    return replace(marks, threshold=heights.of(limit))


def _series(line: Line, drawn: _Drawn, colour: str, top: float) -> list[Option]:
    name = clean(line.name)
    single = sum(point[1] is not None for point in drawn.mean) == 1
    made: list[Option] = [
        {
            "name": name,
            "type": "line",
            "data": drawn.mean,
            "showSymbol": single,
            "connectNulls": False,
            "lineStyle": {"width": 1.8, "color": colour},
            "itemStyle": {"color": colour},
            "emphasis": {"disabled": True},
            "z": 3,
        }
    ]
    if any(c > 1 for c in line.curve.count):
        made.append(
            {
                "name": f"{name} (min to max)",
                "type": "line",
                "data": drawn.band,
                "showSymbol": False,
                "connectNulls": False,
                "silent": True,
                "lineStyle": {"width": 2, "color": colour, "opacity": 0.32},
                "tooltip": {"show": False},
                "emphasis": {"disabled": True},
                "z": 2,
            }
        )
    if drawn.nonfinite:
        made.append(
            {
                "name": f"{name} is not finite",
                "type": "scatter",
                "data": [[x, top] for x in drawn.nonfinite],
                "symbol": "triangle",
                "symbolSize": 10,
                "itemStyle": {"color": "#dc2626"},
                "z": 5,
            }
        )
    return made


def _marked(marks: Marks, window: StepRange, colours: Palette, extent: float) -> Option:
    at: dict[int, list[Finding]] = {}
    for finding in sorted(marks.findings, key=lambda f: f.since_step):
        if window.shows(finding.since_step):
            near = [s for s in at if finding.since_step - s <= MARKS_APART * extent]
            at.setdefault(near[-1] if near else finding.since_step, []).append(finding)
    vertical: list[Option] = []
    for step, here in list(at.items())[:MARKS_MAX]:
        worst = min(here, key=lambda f: _severity_order(f.severity))
        colour = colours.severity.get(worst.severity, colours.muted)
        codes = " ".join(dict.fromkeys(clean(f.code) for f in here[:3]))
        more = f" +{len(here) - 3}" if len(here) > 3 else ""
        vertical.append(
            {
                "xAxis": step,
                "name": f"{SEVERITY_SIGN.get(worst.severity, '●')} {codes}{more}",
                "lineStyle": {"color": colour, "type": "solid", "width": 1.2, "opacity": 0.75},
                "label": {"color": colour, "formatter": "{b}", "position": "insideEndBottom"},
            }
        )
    lines = vertical
    if marks.threshold is not None:
        lines.append(
            {
                "yAxis": marks.threshold,
                "name": clean(marks.threshold_name),
                "lineStyle": {"color": colours.severity["error"], "type": "dashed", "width": 1.4},
                "label": {
                    "color": colours.severity["error"],
                    "formatter": "{b}",
                    "position": "insideEndTop",
                    "fontSize": 11,
                },
            }
        )
    areas = [
        [
            {"xAxis": d.first_step, "name": f"lost: {clean(d.reason).replace('_', ' ')}"},
            {"xAxis": max(d.last_step, d.first_step + 1)},
        ]
        for d in marks.dropped
        if window.shows(d.first_step) or window.shows(d.last_step)
    ]
    made: Option = {}
    if lines:
        made["markLine"] = {"symbol": "none", "silent": True, "data": lines}
    if areas:
        made["markArea"] = {
            "silent": True,
            "itemStyle": {"color": colours.gap},
            "label": {"color": colours.muted, "formatter": "{b}", "fontSize": 11},
            "data": areas[:MARKS_MAX],
        }
    return made


def _severity_order(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def _y_axis(log: bool, threshold: float | None, values: Sequence[float]) -> Option:
    axis: Option = {"type": "log" if log else "value", "splitNumber": 4}
    if not log:
        axis["scale"] = True
    if threshold is not None and values and not (log and threshold <= 0):
        # ECharts fits its axis to the data only; extend it so that the limit is visible.
        low, high = min(*values, threshold), max(*values, threshold)
        if log:
            axis |= {"min": 10.0 ** math.floor(math.log10(low)), "max": high * 1.2}
        else:
            room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
            axis |= {"min": 0 if 0 <= low < room * 2 else low - room, "max": high + room}
            axis["axisLabel"] = {"showMinLabel": False, "showMaxLabel": False}
    return axis


def _least(drawn: Sequence[_Drawn], window: StepRange) -> float | None:
    least = min(_steps(drawn), default=None)
    if window.first is None or window.last is None or least is None:
        return least
    return min(least, float(window.first))


def _largest(drawn: Sequence[_Drawn], window: StepRange) -> float | None:
    return max(_steps(drawn), default=window.last)


def _steps(drawn: Sequence[_Drawn]) -> list[float]:
    return [point[0] for d in drawn for point in d.mean if point[1] is not None]
