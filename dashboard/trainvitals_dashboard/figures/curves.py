"""Curves over steps, what is marked on them, and the range of steps that is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainvitals.api.schema import Curve, Dropped, Event, Finding
from trainvitals.wire import EventKind, Scalar
from trainvitals_dashboard.wording import words

LOG_FROM = 50.0
"""Ratio of largest to smallest value above which an axis is logarithmic."""


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
    resumed: Sequence[int] = ()
    """First steps of the attempts after the first one, from `resumes`."""


def resumes(events: Iterable[Event]) -> tuple[int, ...]:
    """Return the first step of each attempt that continued the run, ascending.

    `events` are those of the run, oldest first. An attempt replaces the later steps of the attempts
    before it, so a beginning at a later step than a newer one is on no curve.
    """
    kept: list[int] = []
    for event in events:
        if event.kind == EventKind.RESUMED:
            kept = [step for step in kept if step < event.step] + [event.step]
    return tuple(kept)


@dataclass(frozen=True)
class StepRange:
    """The range of steps; None means no limit."""

    first: int | None = None
    last: int | None = None


def is_log(values: Iterable[float]) -> bool:
    """Return whether to use a logarithmic axis: all values positive, ratio above LOG_FROM."""
    known = list(values)
    return bool(known) and min(known) > 0 and max(known) / min(known) > LOG_FROM


def rounded(value: float | None) -> float | None:
    """Return the value to seven significant digits; integers are returned unchanged.

    The collector stores float32. 0.01 in float32 is 0.009999999776 as a Python float.
    """
    if value is None or not math.isfinite(value) or float(value).is_integer():
        return value
    return float(f"{value:.7g}")


def scalar_name(place: str) -> str:
    """Return the name of a scalar's curve: training, validation, learning rate of group 1."""
    name, _, part = place.partition("/")
    if place == Scalar.LOSS:
        return "training"
    if name == Scalar.LOSS or name == "log":
        return part
    return f"{words(name)} of group {part}" if part else words(name)
