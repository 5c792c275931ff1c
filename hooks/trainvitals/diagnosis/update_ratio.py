"""The size of the updates relative to the weights: RMS(ΔW)/RMS(W), median over the matrices."""

from __future__ import annotations

import math

import numpy as np

from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.places import Window, both_ends, matrices_by_depth, spread_over
from trainvitals.diagnosis.signals import median
from trainvitals.wire import Place, Stat, Stream

HEALTHY_RATIO = (1e-5, 0.05)
STUCK_STEPS = 60
"""Minimum number of steps before a loss that has not fallen is evidence."""
START_SHARE = 0.01
"""Share of 1/√fan_in. A matrix with a smaller initial RMS is initialised to zero on purpose; its
first update is always large relative to it."""


def update_ratios(history: History, *, with_zero_init: bool = True) -> Window:
    """Return the median ratio over the optimised matrices, of the first steps and the newest ones.

    `values` has shape (captured steps,) and is empty without such a matrix. `with_zero_init=False`
    leaves out the matrices that were initialised to zero.
    """
    places = history.places(Stream.UPDATE)
    rows = matrices_by_depth(history, Stream.UPDATE)
    if not with_zero_init:
        rows = [row for row in rows if not _starts_at_zero(history, places[row])]
    rows = spread_over(rows)
    seen = both_ends(history, Stream.UPDATE, Stat.RATIO, rows)
    if not rows:
        return Window(seen.steps[:0], np.empty(0))
    return Window(seen.steps, median(seen.values, axis=1))


def first_ratio(ratios: Window) -> float:
    """Return the first update ratio; infinity if there is none."""
    return float(ratios.values[0]) if len(ratios.values) else math.inf


def abrupt_rises(course: Course, factor: float) -> Steps:
    """Return the steps at which the learning rate rose by more than `factor` in one step.

    The learning rate is recorded at every step, the update only at captured steps.
    """
    rate = course.learning_rate
    if len(rate) < 2:
        return rate.steps[:0]
    before, after = rate.values[:-1], rate.values[1:]
    return rate.steps[1:][(before > 0) & (after > factor * before)]


def _starts_at_zero(history: History, place: Place) -> bool:
    series = history.series(Stream.WEIGHT, Stat.L2, place.name)
    entries = float(np.prod(place.shape))
    scale = START_SHARE / np.sqrt(entries / place.shape[0])
    return len(series) > 0 and bool(series.values[0] / np.sqrt(entries) < scale)
