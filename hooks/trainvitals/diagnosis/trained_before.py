"""Whether the model was trained before the run: fine-tuning, or a resumed training.

Comes in: a history and its initial loss. Goes out: True or False; False where it is not certain.
Promise:  pure. A loss is taken in its own unit (`LossKind.scale`). One that is divided by a number
          that its graph does not show does not count: it would lie below what the measured
          predictions allow.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.likelihood import likelihood
from trainvitals.diagnosis.loss_parts import loss_parts
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.supervision import (
    BINARY_LOSSES,
    LossKind,
    entropy_of,
    loss_of_constant,
    only_loss,
)
from trainvitals.wire import Scalar

TRAINED_MAX: Final = 0.8
"""Initial loss as a share of that of the best constant prediction; an untrained model is above."""
TRAINED_MAX_ROUGH: Final = 0.5
"""The same where the loss of a constant is an upper bound: several labels, Huber losses."""
SUM_TOLERANCE: Final = 0.3
"""Largest distance of the initial loss from the sum of its measured terms, as a share."""
FIRST: Final = 5
"""Measured batches from the start whose predictions and targets are compared."""


class _Batches(NamedTuple):
    """Medians of the first measured batches."""

    prediction_min: float
    prediction_max: float
    prediction_mean: float
    prediction_std: float
    target_mean: float
    target_std: float


def trained_before(history: History, initial: float) -> bool:
    """Return whether the initial loss is clearly below that of the best constant prediction.

    Known for a cross entropy, a squared error, a Huber loss and binary cross entropies whose
    predictions and targets were measured.
    """
    if likelihood(history):
        return initial < TRAINED_MAX  # a level
    kind, seen = only_loss(history), _batches(history)
    if kind is not None and kind.terms:
        return _sum_is_low(history, initial)
    if kind is None or seen is None or len(kind.kinds) != 1:
        return False
    name, initial = kind.kinds[0], initial / kind.scale
    if name in ("CrossEntropyLoss", "NLLLoss", "MSELoss"):
        constant = loss_of_constant(history)
        return constant is not None and (
            _lowest(name, kind, seen) <= initial < TRAINED_MAX * constant / kind.scale
        )
    if name in BINARY_LOSSES:
        share = TRAINED_MAX if _one_label(kind) else TRAINED_MAX_ROUGH
        return _lowest(name, kind, seen) <= initial < share * entropy_of(seen.target_mean)
    if name in ("HuberLoss", "SmoothL1Loss"):
        return _lowest(name, kind, seen) <= initial < TRAINED_MAX_ROUGH * _huber(seen.target_std)
    return False


def _sum_is_low(history: History, initial: float) -> bool:
    """Whether a sum of measured terms begins below its constant, and is what its terms add."""
    constant, parts = loss_of_constant(history), loss_parts(history)
    if constant is None or not parts:
        return False
    whole = sum(part.first for part in parts)
    return abs(whole - initial) <= SUM_TOLERANCE * whole and 0 < initial < TRAINED_MAX * constant


def _batches(history: History) -> _Batches | None:
    first = [history.scalar(name).finite().values[:FIRST] for name in _SCALARS]
    return None if any(len(v) == 0 for v in first) else _Batches(*map(middle, first))


def _lowest(name: str, kind: LossKind, seen: _Batches) -> float:
    """Return a lower bound of the loss of these predictions, in the unit of an undivided mean.

    A squared error is at least (μ_p − μ_t)² + (σ_p − σ_t)²; a cross entropy at least that of a
    sample whose right class has the largest of all logits and the others the smallest. A tenth of
    it is allowed for the difference of single batches.
    """
    largest = max(abs(seen.prediction_min), abs(seen.prediction_max))
    distance = math.hypot(
        seen.prediction_mean - seen.target_mean, seen.prediction_std - seen.target_std
    )
    match name:
        case "MSELoss":
            bound = distance**2
        case "HuberLoss" | "SmoothL1Loss":
            bound = _huber(distance) / 4
        case "BCEWithLogitsLoss":
            bound = math.log1p(math.exp(-largest))
        case "CrossEntropyLoss":
            spread = seen.prediction_max - seen.prediction_min
            bound = math.log1p(max(0, kind.classes - 1) * math.exp(-spread))
        case _:  # log-probabilities and probabilities
            # Logits that are given to an NLLLoss by mistake can exceed 0, up to any size.
            bound = max(0.0, -seen.prediction_max) if name == "NLLLoss" else 0.0
    return 0.9 * bound


def _huber(error: float) -> float:
    """Return the Huber loss (δ = 1) of an error ≥ 0."""
    return 0.5 * error**2 if error < 1 else error - 0.5


def _one_label(kind: LossKind) -> bool:
    return math.prod(kind.target_shape[1:]) == 1


_SCALARS: Final = (
    Scalar.PREDICTION_MIN,
    Scalar.PREDICTION_MAX,
    Scalar.PREDICTION_MEAN,
    Scalar.PREDICTION_STD,
    Scalar.TARGET_MEAN,
    Scalar.TARGET_STD,
)
