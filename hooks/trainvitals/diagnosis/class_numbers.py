"""A squared error between the outputs of several classes and class numbers, by its size.

Comes in: a history. Goes out: `ClassNumbers`, or None where the loss may be one of one-hot targets.
Promise:  pure. For targets that broadcast without a trace in the graph of the loss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.signals import Array
from trainvitals.diagnosis.supervision import DISTANCES, LossKind
from trainvitals.wire import Scalar, Stat, Stream

_NAMES = (
    Scalar.LOSS,
    *(Scalar.PREDICTION_MEAN, Scalar.PREDICTION_STD),
    *(Scalar.PREDICTION_MIN, Scalar.PREDICTION_MAX),
    *(Scalar.TARGET_MEAN, Scalar.TARGET_STD),
)
_NEAR = 0.3
"""Largest distance of the mean prediction from the mean class number, in standard deviations."""


class ClassNumbers(NamedTuple):
    """What shows that class numbers are compared: the loss, and what one-hot targets would give."""

    ratio: float
    """Loss over its largest value with one-hot targets, or its smallest value over the loss."""
    too_large: bool
    """The first of both: at the start. The second: the model has learned the numbers."""
    loss: float


def class_numbers(
    history: History, classes: int, observations: int, tolerance: float, ratio: float
) -> ClassNumbers | None:
    """Return the evidence of a squared error on class numbers of `classes` outputs.

    In the first measured batches the loss has the size of such an error within `tolerance`, and is
    `ratio` times the largest one of one-hot targets. Or in the newest ones the mean prediction is
    the mean class number, and the loss is below 1/`ratio` of the smallest one of one-hot targets.
    """
    steps = history.scalar(Scalar.PREDICTION_MEAN).steps
    columns = [history.series(Stream.SCALAR, Stat.VALUE, name) for name in _NAMES]
    if len(steps) < observations or any(len(c) == 0 for c in columns):
        return None

    def rows(chosen: Steps) -> list[Array]:
        at = np.searchsorted(columns[0].steps, chosen)
        return [c.values[at].astype(np.float64) for c in columns]

    loss, mean, std, low, high, target, spread = rows(steps[:observations])
    numbers = std**2 + spread**2 + (mean - target) ** 2
    most = std**2 + mean**2 + (1 + 2 * np.maximum(np.abs(low), np.abs(high))) / classes
    fits = np.abs(loss / numbers - 1) < tolerance
    # One-hot targets whose errors are added over the classes have another size.
    added = classes * (std**2 + mean**2) + 1 - 2 * mean
    fits &= np.abs(loss / added - 1) > tolerance
    if (fits & (numbers > ratio * most)).all():
        return ClassNumbers(float((loss / most)[0]), True, float(loss[0]))
    loss, mean, std, _, high, target, spread = rows(steps[-observations:])
    least = std**2 + mean**2 + (1 - 2 * high) / classes
    learned = (np.abs(mean - target) < _NEAR * spread) & (loss > 0)
    learned &= target - 1 / classes > 2 * _NEAR * spread  # the mean of one-hot targets is 1/classes
    # Cauchy–Schwarz: no squared error is smaller. A loss of other terms can be.
    learned &= loss > 0.5 * ((std - spread) ** 2 + (mean - target) ** 2)
    if (learned & (least > ratio * loss)).all():
        return ClassNumbers(float((least / loss)[-1]), False, float(loss[-1]))
    return None


def has_class_numbers(kind: LossKind) -> bool:
    """Whether outputs of several classes are compared with class numbers."""
    return (
        kind.target_type.startswith(("int", "uint"))
        and len(kind.prediction_shape) == len(kind.target_shape) + 1
        and kind.prediction_shape[-1] > 2
        and kind.kinds[:1] != ()
        and kind.kinds[0] in DISTANCES
    )
