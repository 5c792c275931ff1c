"""A dropout so strong that the loss stays near that of a constant prediction.

Comes in: a history. Goes out: the dropout and the loss, or None.
Promise:  pure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.history import History


class StrongDropout(NamedTuple):
    """The largest dropout of a model, and its loss."""

    where: str
    probability: float
    limit: float
    """The probability above which it was judged."""
    now: float
    """The loss."""
    constant: float
    """That of the best constant prediction; NaN if it is not known."""
    level: float
    """`now` as a share of it above which it was reported."""
    severity: Severity


class Limits(NamedTuple):
    """From which probability a dropout is judged, and what it must have left undone."""

    probability: float
    level: float
    """Loss as a share of that of a constant prediction."""
    steps: int


def strong_dropout(
    history: History, strong: Limits, high: Limits, *, extreme: float, initial_min: float
) -> StrongDropout | None:
    """Return the largest dropout if the loss is above the limit for its probability.

    `strong` judges a loss that begins at `initial_min` times that of a constant at once, and a loss
    of unknown scale, as a note or from `extreme` on as a warning. `high` judges only a loss that
    does not fall and whose scale is known.
    """
    largest, course = float(history.facts.get("dropout_max", 0.0)), Course(history)
    if not course.known or course.converged:
        return None
    limits = strong if largest >= strong.probability else high
    if largest < limits.probability:
        return None
    now, constant = course.now(20), course.constant or math.nan
    at_once = limits is strong and min(course.initial, now) >= initial_min * constant
    if len(course.loss) < limits.steps and not at_once:
        return None
    if now <= limits.level * constant:
        return None
    known = not math.isnan(constant)
    if limits is high and (not known or course.falling):
        return None
    sure = known or (largest >= extreme and course.level_off)
    return StrongDropout(
        str(history.facts.get("dropout_max_module", "")),
        largest,
        limits.probability,
        now,
        constant,
        limits.level,
        Severity.WARNING if sure else Severity.INFO,
    )
