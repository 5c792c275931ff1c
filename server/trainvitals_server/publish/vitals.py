"""Extract the newest measured values of one run from its history, for Prometheus.

Comes in: a History, from a diagnosis round.
Goes out: `Vitals`, an immutable set of values.
Promise:  pure; a value that is unknown, or was measured too long before the newest step, is
          absent. A non-finite loss is NaN; the last finite loss is not repeated.
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
"""An older value is absent, because a constant curve would look like an active run."""
LABELS_MAX: Final = 8
"""Maximum number of loss splits, and of optimizer parameter groups, with their own series."""
STEP_TIMES: Final = 32
"""Number of newest steps whose median duration is `step_time_s`."""


@dataclass(frozen=True)
class Vitals:
    """The newest measured values. None or a missing key means unknown or too old."""

    step: int = -1
    loss: Mapping[str, float] = field(default_factory=dict)
    """Loss by split; "training" is the training loss."""
    gradient_norm: float | None = None
    update_ratio: float | None = None
    """Median over weight tensors of RMS(ΔW)/RMS(W)."""
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    """Counts over all steps: "loss" counts micro-batches, "gradient" counts gradient tensors."""
    learning_rate: Mapping[str, float] = field(default_factory=dict)
    """Learning rate by parameter group; "0" is the first group."""
    loss_scale: float | None = None
    step_time_s: float | None = None
    """Median over the newest STEP_TIMES steps."""


@dataclass(frozen=True)
class Measured:
    """A run's vitals and the time when this collector first received their step."""

    vitals: Vitals
    at: float
    """Seconds since the epoch. A heartbeat without a new step does not change it."""
    examined_at: float


def vitals_of(history: History, before: Vitals | None = None) -> Vitals:
    """Return the vitals of `history`; counters continue from `before`, the previous round's."""
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
    """Reads the newest value of a scalar; a value that is too old is None."""

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
        """Return the newest value; NaN when the newest step had non-finite values."""
        bad = self._history.scalar(nonfinite)
        if len(bad) and bad.values[-1] > 0:
            good = self._history.scalar(name)
            if not len(good) or good.steps[-1] < bad.steps[-1]:
                return math.nan
        return self(name)

    def by_suffix(self, prefix: str) -> dict[str, float]:
        """Return x → the newest value of the scalar `prefix`/x, for at most LABELS_MAX scalars."""
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
    # A resumed training starts from an earlier step; all values after that step are new.
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
