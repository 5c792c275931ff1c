"""Measures of a prediction on held-out data, and those of a prediction that ignores the input.

Sources: Guo et al. 2017, arXiv:1706.04599 (expected calibration error, 15 bins); the median
absolute error does not depend on a few outliers in the held-out targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from trainvitals.experiments.form import Form

BINS: Final = 15
CLEAR: Final = 0.1
"""Share of the way from a constant prediction to a perfect one that counts as learned."""


@dataclass(frozen=True)
class Metric:
    """What choices are compared by."""

    name: str
    higher_is_better: bool
    function: Callable[..., Any] | None = None
    """The user's function of (model, inputs, targets); None: `score`."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest possible value."""
        if self.function is not None:
            return -math.inf, math.inf
        return 0.0, 1.0 if self.higher_is_better else math.inf


def metric_of(form: Form, given: Callable[..., Any] | None, higher: bool | None) -> Metric:
    """Return the metric. Raises TypeError or ValueError for a metric that is not declared."""
    if given is None:
        if higher is not None:
            raise ValueError("higher_is_better= describes metric=, and no metric is given.")
        if form.is_classification:
            return Metric("accuracy", higher_is_better=True)
        return Metric("median absolute error", higher_is_better=False)
    if not callable(given):
        raise TypeError(
            f"metric is a {type(given).__name__}; expected a function of (model, inputs, targets) "
            "that returns a number."
        )
    if not isinstance(higher, bool):
        raise ValueError("metric= needs higher_is_better=True or higher_is_better=False.")
    return Metric(getattr(given, "__name__", "metric"), higher, given)


def score(form: Form, prediction: Tensor, target: Tensor) -> float:
    """Return the accuracy (0 to 1), or the median absolute error, of pairs from `Form.pairs`."""
    if form.kind == "regression":
        return float((prediction - target).abs().flatten().median())
    if form.kind in ("multi_class", "soft_classes"):
        classes = target if target.dim() == 1 else target.argmax(-1)
        return float((prediction.argmax(-1) == classes).double().mean())
    return float(((prediction > 0) == (target > 0.5)).double().mean())


def constant_score(form: Form, training: Tensor, target: Tensor) -> float:
    """Return the score of the best constant prediction that the training targets give.

    Both are targets from `Form.pairs`.
    """
    if form.kind == "regression":
        middle = training.median(0).values
        return float((target - middle).abs().flatten().median())
    if form.kind in ("multi_class", "soft_classes"):
        classes = [t if t.dim() == 1 else t.argmax(-1) for t in (training, target)]
        return float((classes[1] == classes[0].mode().values).double().mean())
    return float(((target > 0.5) == (training.mean(0) > 0.5)).double().mean())


def bar_of(metric: Metric, constant: float, samples: int) -> float:
    """Return the score from which a model has learned: clearly better than a constant prediction.

    It is a tenth of the way from the constant to a perfect prediction, and at least two standard
    errors of a score on so many samples: for the median of n errors about 1/√n of its value.
    """
    if metric.higher_is_better:
        error = math.sqrt(constant * (1 - constant) / max(1, samples))
        return constant + max(CLEAR * (1 - constant), 2 * error)
    return constant * (1 - max(CLEAR, min(1.0, 2 / math.sqrt(max(1, samples)))))


def calibration_error(form: Form, prediction: Tensor, target: Tensor) -> float | None:
    """Return the expected calibration error over 15 bins of confidence, 0 to 1.

    Logits give probabilities by the softmax, or by the sigmoid for labels of 0 and 1. None for a
    regression.
    """
    if form.kind == "regression" or target.numel() == 0:
        return None
    if form.kind in ("multi_class", "soft_classes"):
        confidence, chosen = prediction.softmax(-1).max(-1)
        right = chosen == (target if target.dim() == 1 else target.argmax(-1))
    else:
        share = prediction.sigmoid().flatten()
        confidence = torch.maximum(share, 1 - share)
        right = (share > 0.5) == (target.flatten() > 0.5)
    if not bool(confidence.isfinite().all()):
        return None
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64, device=prediction.device)
    gap.index_add_(0, bins, right.double() - confidence)
    return float(gap.abs().sum() / len(confidence))
