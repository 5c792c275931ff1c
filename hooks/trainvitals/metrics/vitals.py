"""Extract the newest measured values of one run from its history, for Prometheus.

Comes in: a History, from a diagnosis round.
Goes out: `Vitals`, an immutable set of values.
Promise:  pure; a value that is unknown, or was measured too long before the newest step, is
          absent. A non-finite loss is NaN; the last finite loss is not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.metrics.layers import Layers, layers_of
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
    gradient_norm_before_clipping: float | None = None
    update_ratio: float | None = None
    """Median over weight tensors of RMS(ΔW)/RMS(W)."""
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    """Counts over all steps: "loss" counts micro-batches, "gradient" counts gradient tensors."""
    skipped: int | None = None
    """Number of updates that the gradient scaler skipped, over all steps; None without a scaler."""
    learning_rate: Mapping[str, float] = field(default_factory=dict)
    """Learning rate by parameter group; "0" is the first group."""
    loss_scale: float | None = None
    step_time_s: float | None = None
    """Median over the newest STEP_TIMES steps."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """The user's scalars that the operator chose, by name without the prefix `log/`."""
    layers: Layers = field(default_factory=Layers)


@dataclass(frozen=True)
class Measured:
    """A run's vitals and the time when this collector first received their step."""

    vitals: Vitals
    at: float
    """Seconds since the epoch. A heartbeat without a new step does not change it."""
    examined_at: float


def vitals_of(
    history: History, before: Vitals | None = None, scalars: Sequence[str] = ()
) -> Vitals:
    """Return the vitals of `history`; counters continue from `before`, the previous round's.

    `scalars`: patterns of the user's scalars to include, at most LABELS_MAX of them.
    """
    step_time_s = _step_time(history)
    newest = _Newest(history, step_time_s)
    return Vitals(
        step=history.last_step,
        loss=_losses(newest),
        gradient_norm=newest.or_nan(Scalar.GRADIENT_NORM, Scalar.NONFINITE_GRADIENTS),
        gradient_norm_before_clipping=newest(Scalar.GRADIENT_NORM_BEFORE_CLIPPING),
        update_ratio=_update_ratio(history, newest),
        nonfinite=_nonfinite(history, before),
        skipped=_skipped(history, before),
        learning_rate=newest.by_suffix(Scalar.LEARNING_RATE),
        loss_scale=newest(Scalar.LOSS_SCALE),
        step_time_s=step_time_s,
        scalars=_chosen(newest, history, scalars),
        layers=layers_of(history) if _measures_layers(history, newest) else Layers(),
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


def _measures_layers(history: History, newest: _Newest) -> bool:
    steps = history.steps(Stream.GRADIENT)
    return bool(len(steps)) and newest.fresh(int(steps[-1]))


def _chosen(newest: _Newest, history: History, patterns: Sequence[str]) -> dict[str, float]:
    names = [n.removeprefix("log/") for n in history.scalar_names() if n.startswith("log/")]
    chosen = [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
    values = {name: newest(f"log/{name}") for name in chosen[:LABELS_MAX]}
    return {name: value for name, value in values.items() if value is not None}


def _skipped(history: History, before: Vitals | None) -> int | None:
    counted_to = min(before.step, history.last_step) if before else -1
    counted = before.skipped if before else None
    series = history.scalar(Scalar.SKIPPED_STEP).finite()
    if not len(series) and counted is None:
        return None
    return (counted or 0) + int(series.since(counted_to + 1).values.sum(dtype=np.float64))


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
