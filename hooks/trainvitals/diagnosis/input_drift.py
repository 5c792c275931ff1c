"""A scale of the inputs that changes during the run: a transform that is applied again and again.

Comes in: a history. Goes out: `Drift`, or None.
Promise:  pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import middle
from trainvitals.wire import Scalar

FIRST: Final = 3
"""Measured batches at the start whose RMS is that of the samples as they are stored."""
LAST: Final = 2
"""Newest measured batches that must all be beyond the limit: one rare sample is no drift."""


class Drift(NamedTuple):
    """RMS of the model's first input at the start and now, and the first step beyond the limit."""

    start: float
    now: float
    since_step: int


def drift_of_inputs(history: History, factor: float) -> Drift | None:
    """Return the change of the RMS if it is more than `factor` up or down and has stayed so."""
    mean, std = (history.scalar(name).finite() for name in (Scalar.INPUT_MEAN, Scalar.INPUT_STD))
    if len(mean) < FIRST + LAST or len(mean) != len(std):
        return None
    rms = np.hypot(mean.values.astype(float), std.values.astype(float))
    start = middle(rms[:FIRST])
    is_beyond = (rms * factor < start) | (rms > factor * start)
    if not start > 0 or not is_beyond[-LAST:].all():
        return None
    begin = len(rms) - int(np.argmin(is_beyond[::-1]))
    return Drift(start, middle(rms[-LAST:]), int(mean.steps[begin]))
