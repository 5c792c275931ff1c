"""The size of the updates relative to the weights: RMS(ΔW)/RMS(W), median over the matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.history import Flags, History, Steps, once
from trainvitals.diagnosis.places import (
    Window,
    both_ends,
    matrices_by_depth,
    rows_named,
    spread_over,
    window,
)
from trainvitals.diagnosis.signals import median, middle
from trainvitals.wire import Place, Stat, Stream

HEALTHY_RATIO = (1e-5, 0.05)
STUCK_STEPS = 60
"""Minimum number of steps before a loss that has not fallen is evidence."""
START_SHARE = 0.01
"""Share of 1/√fan_in. A matrix with a smaller initial RMS is initialised to zero on purpose; its
first update is always large relative to it."""


@once
def update_ratios(history: History, *, with_zero_init: bool = True) -> Window:
    """Return the median ratio over the optimised matrices, of the first steps and the newest ones.

    `values` has shape (captured steps,) and is empty without such a matrix. `with_zero_init=False`
    leaves out the matrices that were initialised to zero.
    """
    places = history.places(Stream.UPDATE)
    rows = matrices_by_depth(history, Stream.UPDATE)
    if not with_zero_init:
        at_zero = _starting_at_zero(history, [places[row] for row in rows])
        rows = [row for row, is_zero in zip(rows, at_zero, strict=True) if not is_zero]
    rows = spread_over(rows)
    seen = both_ends(history, Stream.UPDATE, Stat.RATIO, rows)
    if not rows:
        return Window(seen.steps[:0], np.empty(0))
    return Window(seen.steps, median(seen.values, axis=1))


def first_ratio(ratios: Window) -> float:
    """Return the first update ratio; infinity if there is none."""
    return float(ratios.values[0]) if len(ratios.values) else math.inf


def largest_first_ratio(history: History) -> tuple[Place | None, float]:
    """Return the matrix with the largest first update ratio, and that ratio; (None, NaN) without.

    Embeddings, whose rows are not all in a batch, and matrices that start at zero are left out.
    """
    places = history.places(Stream.UPDATE)
    rows = [r for r in matrices_by_depth(history, Stream.UPDATE) if places[r].kind == "weight"]
    at_zero = _starting_at_zero(history, [places[row] for row in rows])
    rows = [row for row, is_zero in zip(rows, at_zero, strict=True) if not is_zero]
    first = window(history, Stream.UPDATE, Stat.RATIO, rows, first=1)
    if not rows or not first.values.size or first.steps[0] > 0 or np.isnan(first.values).all():
        return None, float("nan")
    at = int(np.nanargmax(first.values[0]))
    return places[rows[at]], float(first.values[0, at])


def abrupt_rises(course: Course, factor: float) -> Steps:
    """Return the steps at which the learning rate rose by more than `factor` in one step.

    The learning rate is recorded at every step, the update only at captured steps.
    """
    rate = course.learning_rate
    if len(rate) < 2:
        return rate.steps[:0]
    before, after = rate.values[:-1], rate.values[1:]
    return rate.steps[1:][(before > 0) & (after > factor * before)]


def _starting_at_zero(history: History, matrices: Sequence[Place]) -> Flags:
    """Return for each matrix whether its first RMS is below `START_SHARE` of 1/√fan_in."""
    first = history.values(Stream.WEIGHT, Stat.L2)[:1]
    rows = rows_named(history, Stream.WEIGHT, [place.name for place in matrices])
    if len(first) == 0:
        return np.zeros(len(matrices), bool)
    norms = np.array([np.nan if row is None else first[0, row] for row in rows], np.float64)
    entries = np.array([math.prod(place.shape) for place in matrices], np.float64)
    outputs = np.array([place.shape[0] for place in matrices], np.float64)
    small: Flags = norms / np.sqrt(entries) < START_SHARE / np.sqrt(entries / outputs)
    return small


def weight_over_gradient(history: History) -> float:
    """Return ‖W‖/‖g‖ in the first captured step, median over the matrices; NaN if unknown."""
    rows = spread_over(matrices_by_depth(history, Stream.WEIGHT))
    names = [history.places(Stream.WEIGHT)[row].name for row in rows]
    known = [
        (row, other)
        for row, other in zip(rows, rows_named(history, Stream.GRADIENT, names), strict=True)
        if other is not None
    ]
    if not known:
        return float("nan")
    weight, gradient = (
        median(window(history, stream, Stat.L2, list(chosen), first=1).values)
        for stream, chosen in zip(
            (Stream.WEIGHT, Stream.GRADIENT), zip(*known, strict=True), strict=True
        )
    )
    ratios = weight[gradient > 0] / gradient[gradient > 0]
    return middle(ratios)
