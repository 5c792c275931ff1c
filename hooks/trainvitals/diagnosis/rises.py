"""Rises of the loss, and what came before them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.signals import Array, Flags, log10, noise
from trainvitals.diagnosis.supervision import loss_of_constant

GROWTH_STEPS = 10
"""Minimum number of steps of a growth by a constant factor."""
GROWTH_MIN = 1.02
"""Smallest factor per step that counts as growth."""
CONSTANT_MIN = 0.7
"""Growth per step of the second half relative to the first: a sum over more and more samples grows
by a factor that falls."""
GROWTH_TOTAL = 10.0
"""Smallest factor of the whole growth."""

AT_CONSTANT_STEPS = 180
"""Minimum number of losses before one that has only fallen to that of a constant is evidence."""
AT_CONSTANT = 0.97
"""Loss as a share of that of a constant prediction."""


class Growth(NamedTuple):
    """A loss that grows by about the same factor in each step, up to the newest one."""

    step: int
    factor: float
    """Per step, median."""
    steps: int
    total: float


def exponential_growth(course: Course) -> Growth | None:
    """Return the growth at the end of a loss that has grown since its first tenth; None without.

    Gradient descent on a valley with a curvature above 2/lr multiplies the distance from the
    minimum by a constant factor in each step (Goodfellow et al., "Deep Learning", 2016, 4.3.1).
    """
    values = course.loss.values.astype(np.float64)
    n = len(values)
    if n < GROWTH_STEPS + 1 or not (values > 0).all():
        return None
    with np.errstate(over="ignore"):
        factors = values[1:] / values[:-1]
    slow = np.flatnonzero(factors < 1.0)
    start = int(slow[-1]) + 1 if len(slow) else 0
    steps = n - 1 - start
    if steps < GROWTH_STEPS or start > max(GROWTH_STEPS, n // 10):
        return None
    factor, total = float(np.median(factors[start:])), float(values[-1] / values[start])
    first, second = (float(np.median(half)) for half in np.array_split(factors[start:], 2))
    constant = second - 1 > CONSTANT_MIN * (first - 1)
    if factor < GROWTH_MIN or total < GROWTH_TOTAL or not constant:
        return None
    return Growth(int(course.loss.steps[start]), factor, steps, total)


def is_erratic(values: Array) -> bool:
    """Return whether a loss varies by a factor of 2 from step to step: a rise may be noise."""
    return bool(noise(log10(values)) > np.log10(2.0))


def sudden_rises(values: Array, *, steps: int, rise: float) -> Flags:
    """Return where a loss is more than `rise` above its minimum of the `steps` losses before.

    The first loss is no rise. A slow rise is not an explosion: the sum over episodes of growing
    length rises slowly.
    """
    within = min(steps, len(values))
    padded = np.r_[np.full(within, np.inf), values]
    before = np.lib.stride_tricks.sliding_window_view(padded, within)[: len(values)].min(axis=1)
    before[0] = np.inf
    sudden: Flags = values > before + rise
    return sudden


def cause_of(big: Steps, onsets: Steps, within: int = 10) -> tuple[int, int] | None:
    """Return (onset of a rise, first large update in the `within` steps before), or None."""
    for onset in onsets:
        leading = big[(big < onset) & (big >= onset - within)]
        if len(leading):
            return int(onset), int(leading[0])
    return None


def fell_at_once(history: History, course: Course, share: float, noises: float) -> bool:
    """Whether the loss is by this share, and this multiple of its noise, below the very first one.

    Only for a loss whose lowest value is unknown: where the loss of a constant prediction is known,
    a model that starts worse has learned nothing yet when it reaches it.
    """
    if loss_of_constant(history) is not None:
        return False
    first = float(course.loss.values[0])
    return first - course.now() > max(share * first, noises * course.noise)


def no_better_than_constant(course: Course) -> bool:
    """Whether the loss has fallen to that of a constant prediction, and no lower in many steps."""
    if course.constant is None or len(course.loss) < AT_CONSTANT_STEPS:
        return False
    return course.now(20) >= AT_CONSTANT * course.constant
