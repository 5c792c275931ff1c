"""A number among the inputs of a table that stands for a missing value, such as -9999.

Comes in: a history. Goes out: `Coded`, or None; the code that replaces such numbers by the mean.
Promise:  pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import middle
from trainvitals.wire import Scalar

KNOWN: Final = at(
    Moment.BATCH,
    "centre = x_train.median(0).values\n"
    "usual = (x_train - centre).abs().median(0).values.clamp_min(1e-6)\n"
    "known = ((x_train - centre).abs() <= 30 * usual) | (x_train.abs() <= 10)\n"
    "mean = (x_train * known).sum(0) / known.sum(0)\n"
    "std = (((x_train - mean) * known).square().sum(0) / known.sum(0)).sqrt().clamp_min(1e-6)\n"
    "missing = ((x - centre).abs() > 30 * usual) & (x.abs() > 10)\n"
    "x = ((x - mean) / std).masked_fill(missing, 0.0)  # 0 is the mean of a feature now",
)
"""Standardises each feature by its known values and sets the missing ones to their mean."""


class Coded(NamedTuple):
    """The number, and its distance from the mean of its column."""

    value: float
    distance: float
    """In standard deviations of the column's other entries."""


def coded(history: History, batches: int, distance_min: float) -> Coded | None:
    """Return the number if it is that far in the median of the first `batches` measured ones."""
    value, distance = (
        history.scalar(name).values[:batches].astype(float)
        for name in (Scalar.INPUT_FAR_VALUE, Scalar.INPUT_FAR_DISTANCE)
    )
    if len(value) < batches or len(value) != len(distance):
        return None
    usual = middle(distance)
    return Coded(middle(value), usual) if usual > distance_min else None
