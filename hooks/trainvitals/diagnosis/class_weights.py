"""Weights of classes in a loss that grow with the classes' frequencies.

Comes in: a history. Goes out: a `ReversedWeights`, or None.
Promise:  pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import Floats
from trainvitals.diagnosis.supervision import class_loss
from trainvitals.wire import EventKind

_SLOPE_MIN: Final = 0.5
"""Slope of the logarithms of the weights over those of the frequencies; a balance has −1."""
_CORRELATION_MIN: Final = 0.9


class ReversedWeights(NamedTuple):
    """Weights that make the frequent classes count even more."""

    step: int
    frequency: float
    """Targets of the most frequent class over those of the rarest."""
    weight: float
    """Weight of the most frequent class over that of the rarest."""
    correlation: float
    """Correlation of the logarithms of weights and frequencies, −1 to 1."""


def class_counts(history: History) -> tuple[int, int, Floats] | None:
    """Return (step, measured batches, targets of each class) of the newest histogram."""
    events = [e for e in history.events if e.kind == EventKind.CLASS_HISTOGRAM]
    if not events:
        return None
    batches = events[-1].text.split(" in ")[-1].split(" ")[0]
    counts = np.array([float(n) for n in events[-1].attributes.values()])
    return events[-1].step, int(batches) if batches.isdigit() else 0, counts


def reversed_weights(
    history: History, *, batches_min: int, factor_min: float
) -> ReversedWeights | None:
    """Return class weights that follow the frequencies instead of balancing them."""
    kind, seen = class_loss(history), class_counts(history)
    if kind is None or seen is None or seen[1] < batches_min:
        return None
    counts, weights = seen[2], np.array(kind.class_weights)
    if len(counts) != len(weights):
        return None
    known = (counts > 0) & (weights > 0)
    if known.sum() < 2:
        return None
    n, w = counts[known], weights[known]
    most, least = int(n.argmax()), int(n.argmin())
    frequency, weight = float(n[most] / n[least]), float(w[most] / w[least])
    if min(frequency, weight) < factor_min:
        return None
    x, y = np.log(n) - np.log(n).mean(), np.log(w) - np.log(w).mean()
    correlation = float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
    if correlation < _CORRELATION_MIN or (x * y).sum() < _SLOPE_MIN * (x * x).sum():
        return None
    return ReversedWeights(kind.step, frequency, weight, correlation)
