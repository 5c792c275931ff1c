"""The newest measured values of one run, out of its history: what Prometheus shows of it.

Comes in: a History, in a round.
Goes out: `Vitals`, a frozen handful of numbers.
Promise:  pure; a value that is not known, or was measured too long before the newest step, is
          absent. A loss that is not a number is NaN, not the last good one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.wire import Scalar, Stat, Stream

AGE_MAX_S: Final = 300.0
"""An older value is absent: a frozen curve looks like a run that goes on."""
LABELS_MAX: Final = 8
"""Splits of the loss, and groups of the optimizer, that get a series of their own."""
STEP_TIMES: Final = 32
"""Steps whose median is the step's duration."""


@dataclass(frozen=True)
class Vitals:
    """What was measured last. None and missing keys: not known, or too old."""

    step: int = -1
    loss: Mapping[str, float] = field(default_factory=dict)
    """By split; "training" is the run's own."""
    gradient_norm: float | None = None
    update_ratio: float | None = None
    """Median over weight tensors of RMS(ΔW)/RMS(W)."""
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    """"loss": micro-batches; "gradient": parameter tensors. Counted over all steps seen."""
    learning_rate: Mapping[str, float] = field(default_factory=dict)
    """By group, "0" the first."""
    loss_scale: float | None = None
    step_time_s: float | None = None
    """Median over the newest steps."""


@dataclass(frozen=True)
class Measured:
    """A run's vitals, and when this collector first saw that step."""

    vitals: Vitals
    at: float
    """Seconds since the epoch. A heartbeat without a new step does not move it."""
    examined_at: float


def vitals_of(history: History, before: Vitals | None = None) -> Vitals:
    """Return the vitals of `history`; `before`, of the round before, keeps counters counting."""
    step_time_s = _step_time(history)
    newest = _Newest(history, step_time_s)
    return Vitals(
        step=history.last_step,
        loss=_losses(newest),
        gradient_norm=newest.or_nan(Scalar.GRADIENT_NORM, Scalar.NONFINITE_GRADIENTS),
        update_ratio=_update_ratio(history, newest),
        nonfinite=_nonfinite(history, before),
        learning_rate=newest.by_suffix(Scalar.LEARNING_RATE),
        loss_scale=newest(Scalar.LOSS_SCALE),
        step_time_s=step_time_s,
    )


class _Newest:
    """Reads a scalar's newest value, unless it was measured too many steps ago."""

    def __init__(self, history: History, step_time_s: float | None) -> None:
        self._history = history
        self._step_time_s = step_time_s or 0.0

    def fresh(self, step: int) -> bool:
        return (self._history.last_step - step) * self._step_time_s <= AGE_MAX_S

    def __call__(self, name: str) -> float | None:
        series = self._history.scalar(name)
        if not len(series) or not self.fresh(int(series.steps[-1])):
            return None
        return float(series.values[-1])

    def or_nan(self, name: str, nonfinite: str) -> float | None:
        """Return the newest value; NaN when the newest step counted non-finite ones."""
        bad = self._history.scalar(nonfinite)
        if len(bad) and bad.values[-1] > 0:
            good = self._history.scalar(name)
            if not len(good) or good.steps[-1] < bad.steps[-1]:
                return math.nan
        return self(name)

    def by_suffix(self, prefix: str) -> dict[str, float]:
        """Return `prefix`/x → value by x, at most LABELS_MAX of them."""
        names = [n for n in self._history.scalar_names() if n.startswith(f"{prefix}/")]
        values = {n.removeprefix(f"{prefix}/"): self(n) for n in names[:LABELS_MAX]}
        return {suffix: value for suffix, value in values.items() if value is not None}


def _losses(newest: _Newest) -> dict[str, float]:
    losses = newest.by_suffix(Scalar.LOSS)
    training = newest.or_nan(Scalar.LOSS, Scalar.NONFINITE_LOSS)
    if training is not None:
        losses["training"] = training
    return losses


def _update_ratio(history: History, newest: _Newest) -> float | None:
    steps = history.steps(Stream.UPDATE)
    if not len(steps) or not newest.fresh(int(steps[-1])):
        return None
    weights = [i for i, p in enumerate(history.places(Stream.UPDATE)) if p.kind == "weight"]
    ratios = history.values(Stream.UPDATE, Stat.RATIO)[-1, weights]
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if len(ratios) else None


def _nonfinite(history: History, before: Vitals | None) -> dict[str, int]:
    # A resumed training counts its steps from an earlier one again: from there on, all are new.
    counted_to = min(before.step, history.last_step) if before else -1
    counts = dict(before.nonfinite) if before else {}
    for kind, name in (
        ("loss", Scalar.NONFINITE_LOSS),
        ("gradient", Scalar.NONFINITE_GRADIENTS),
    ):
        series = history.scalar(name).finite()
        if len(series) or kind in counts:
            new = float(series.since(counted_to + 1).values.sum(dtype=np.float64))
            counts[kind] = counts.get(kind, 0) + int(new)
    return counts


def _step_time(history: History) -> float | None:
    times = history.scalar(Scalar.STEP_TIME_S).finite().last(STEP_TIMES).values
    return float(np.median(times)) if len(times) else None
