"""Messages to a chart board: all points once, then only the points after the last step.

Comes in: plans (a chart and the function that requests its curves), newest step, range of steps.
Goes out: numbered messages; a message with a `base` continues the message of that number.
Promise:  a continuation has at most LIVE_POINTS points in all (1.5 KB), for a run of any length.
Start at `message_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from trainvitals_dashboard.figures import charts
from trainvitals_dashboard.figures.charts import Chart, Part
from trainvitals_dashboard.figures.curves import Line, StepRange

POINTS = 600
LIVE_POINTS = 24
"""Of all curves of a continuation together; a point has about 60 bytes. Streamlit adds 2 KB."""
LIVE_POINTS_OF_CURVE = 24
_NUMBERS = count(1)
"""Numbers of messages. A number is never used twice, in any session."""


def next_number() -> int:
    """Return a number for a message."""
    return next(_NUMBERS)


@dataclass(frozen=True)
class ChartPlan:
    """A chart over steps, and the function that requests its curves."""

    chart: Chart
    request: Callable[[int | None, int | None, int], Sequence[Line]]
    """From the first step, the last step (None: no limit) and a number of points to the lines."""


@dataclass
class ChartsSent:
    """What the browser has: the last message, and the last step of each curve."""

    shape: Any
    message: Part
    last: dict[tuple[str, str], int] = field(default_factory=dict)
    """(chart, place) → last step."""
    meta: dict[str, Part] = field(default_factory=dict)


def message_of(
    plans: Sequence[ChartPlan], newest: int, shown: StepRange, sent: ChartsSent | None
) -> ChartsSent:
    """Return the next message and what the browser has after it.

    `newest` is the newest step of the run, -1 before the first. `sent` is the last result for the
    same board, None if the browser has nothing. Without new data, its message is returned again;
    the browser knows the number and does nothing.
    """
    shape = (shown, tuple(plan.chart.key for plan in plans))
    if sent is not None and sent.shape == shape and _grow(sent, plans, newest, shown):
        return sent
    return _whole(plans, newest, shown, shape)


def compact(message: Part) -> Part:
    """Return a message whose new points are columns without names, for the browser."""
    if message["base"] is None:
        return message
    parts = [
        {**part, "points": {k: charts.unnamed(v) for k, v in part["points"].items()}}
        for part in message["charts"]
    ]
    return {**message, "charts": parts}


def _whole(plans: Sequence[ChartPlan], newest: int, shown: StepRange, shape: Any) -> ChartsSent:
    sent = ChartsSent(shape, {})
    parts = []
    for plan in plans:
        key = plan.chart.key
        lines = plan.request(shown.first, shown.last, POINTS)
        parts.append(charts.over_steps(plan.chart, lines, newest))
        sent.meta[key] = charts.meta(plan.chart, newest)
        for line in lines:
            sent.last[key, line.curve.place] = max(line.curve.last_step, default=-1)
    everything = shown.first is None and shown.last is None
    sent.message = {
        "seq": next_number(),
        "base": None,
        "range": None if everything else [shown.first or 0, shown.last],
        "full": [0, max(newest, 1)],
        "colours": charts.colours(),
        "charts": parts,
    }
    return sent


def _grow(sent: ChartsSent, plans: Sequence[ChartPlan], newest: int, shown: StepRange) -> bool:
    """Add the new points to `sent`; return False if the browser needs all points again."""
    last, parts = dict(sent.last), []
    wanted = max(1, min(LIVE_POINTS_OF_CURVE, LIVE_POINTS // max(1, len(last))))
    for plan in plans:
        key = plan.chart.key
        have = {place: step for (chart, place), step in last.items() if chart == key}
        first = max(min(have.values(), default=-1) + 1, shown.first or 0)
        over = shown.last is not None and first > shown.last
        lines = [] if over else plan.request(first, shown.last, wanted)
        grown = {}
        for line in lines:
            place = line.curve.place
            if place not in have:
                return False
            new = charts.points(line.curve, have[place])
            if new["step"]:
                grown[place] = new
                last[key, place] = max(line.curve.last_step)
        part: Part = {"key": key, "points": grown}
        meta = charts.meta(plan.chart, newest)
        if meta != sent.meta[key]:
            part["meta"] = sent.meta[key] = meta
        if grown or "meta" in part:
            parts.append(part)
    if parts:
        sent.last = last
        sent.message = {
            "seq": next_number(),
            "base": sent.message["seq"],
            "full": [0, max(newest, 1)],
            "charts": parts,
        }
    return True
