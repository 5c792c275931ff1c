"""The numbers of the page Loss: noise, decline, the best evaluation.

Comes in: curves of the API.
Goes out: numbers, or the reason why there are none.
Promise:  pure; a value that was not measured or is not finite is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.api.schema import Curve

WINDOWS = 5
"""Windows of equal length whose means give the decline."""
WINDOW_MAX = 50
"""Losses in a window."""
WINDOW_MIN = 8
DECLINE_ERRORS = 2.0
"""A decline below this multiple of its standard error does not differ from none."""


class Noise(NamedTuple):
    """How much the newest losses vary, and by how much they fall."""

    std: float
    """Standard deviation of one loss around the straight line through its window."""
    decline: float
    """Mean fall from one window to the next; negative if the loss rises."""
    error: float
    """Standard error of `decline`, with the losses taken as independent."""
    window: int
    """Losses in a window."""

    @property
    def is_clear(self) -> bool:
        """Whether the loss fell or rose by more than its noise explains."""
        return abs(self.decline) > DECLINE_ERRORS * self.error


class Best(NamedTuple):
    """The smallest value of a curve."""

    value: float
    first: int
    """The steps of the bucket in which it lies; `first` = `last` if the step is known."""
    last: int


def noise_of(curve: Curve | None) -> Noise | str:
    """Return noise and decline of the newest single losses, or why they are unknown.

    The newest losses form `WINDOWS` windows of up to `WINDOW_MAX`. `std` is the root of the mean
    of the windows' residual variances (n − 2 degrees of freedom each): a line through a window
    removes the decline inside it. `decline` is the least-squares slope of the windows' means.
    """
    if curve is None:
        return "there is no loss in the newest steps"
    if any(first != last for first, last in zip(curve.step, curve.last_step, strict=True)):
        return "the newest steps are not stored singly"
    values = np.array([v for v in curve.mean if v is not None], np.float64)
    window = min(WINDOW_MAX, len(values) // WINDOWS)
    if window < WINDOW_MIN:
        return f"needs {WINDOWS * WINDOW_MIN} finite losses; there are {len(values)}"
    windows = values[-WINDOWS * window :].reshape(WINDOWS, window)
    at = np.arange(window) - (window - 1) / 2
    slopes = windows @ at / (at @ at)
    means = windows.mean(axis=1)
    residuals = windows - means[:, None] - slopes[:, None] * at
    std = float(np.sqrt((residuals**2).sum() / (WINDOWS * (window - 2))))
    places = np.arange(WINDOWS) - (WINDOWS - 1) / 2
    weight = float(places @ places)
    decline = -float(means @ places) / weight
    return Noise(std, decline, std / np.sqrt(window * weight), window)


def lowest(curve: Curve) -> Best | None:
    """Return the smallest finite value of a curve, the first of equal ones; None without one."""
    found: Best | None = None
    for value, first, last in zip(curve.min, curve.step, curve.last_step, strict=True):
        if value is not None and (found is None or value < found.value):
            found = Best(value, first, last)
    return found


def newest(curve: Curve) -> tuple[int, float] | None:
    """Return the last step with a finite value, and the value; None without one."""
    for value, step in zip(reversed(curve.last), reversed(curve.last_step), strict=True):
        if value is not None:
            return step, value
    return None
