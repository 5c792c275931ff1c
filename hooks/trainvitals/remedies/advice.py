"""A recommended loss, and the losses that PyTorch does not have as modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from trainvitals.api.schema import Evidence
from trainvitals.remedies.tasks import PREDICTIONS, TARGETS, Task

Goal = Literal["accuracy", "calibration", "robustness"]

SMOOTHING: Final = 0.1
PROBABILITIES_MIN: Final = 8
"""Rows, from which predictions within [0, 1] count as probabilities."""


@dataclass(frozen=True)
class Alternative:
    """Another loss, and when to take it."""

    code: str
    when: str


@dataclass(frozen=True)
class LossAdvice:
    """A recommended loss."""

    task: str
    """regression | binary | multi_class | soft_classes | multi_label | ordinal"""
    loss: nn.Module
    """Ready for `loss(predictions, targets)` with targets as they were given."""
    code: str
    """The same as a line of PyTorch with the names `predictions` and `targets`."""
    reason: str
    evidence: tuple[Evidence, ...]
    alternatives: tuple[Alternative, ...]


class PreparedLoss(nn.Module):
    """A loss whose predictions and targets are converted first, as the code says."""

    def __init__(self, loss: nn.Module, prediction_code: str, target_code: str) -> None:
        super().__init__()
        self.loss = loss
        self.prediction_code = prediction_code
        self.target_code = target_code

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        converted = TARGETS[self.target_code](targets)
        value: Tensor = self.loss(PREDICTIONS[self.prediction_code](predictions), converted)
        return value

    def extra_repr(self) -> str:
        """Return the conversions."""
        return f"{self.prediction_code}, {self.target_code}"


class OrdinalLoss(nn.Module):
    """Binary cross entropy of "the class is above k" for each threshold k, 0 to classes − 2.

    Predictions are logits (n, classes − 1), targets class indices (n,).
    """

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over samples and thresholds."""
        thresholds = torch.arange(predictions.shape[-1], device=targets.device)
        above = (targets.unsqueeze(-1) > thresholds).to(predictions.dtype)
        return nn.functional.binary_cross_entropy_with_logits(predictions, above)


class SmoothedBinaryLoss(nn.Module):
    """Binary cross entropy on logits, with targets moved from 0 and 1 by half the smoothing."""

    def __init__(self, smoothing: float = SMOOTHING) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over samples."""
        smooth = targets * (1 - self.smoothing) + self.smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(predictions, smooth)


def advice(
    task: Task,
    loss: nn.Module,
    code: str,
    reason: str,
    evidence: list[Evidence],
    alternatives: list[Alternative],
) -> LossAdvice:
    """Return the advice, with the names of the task's predictions and targets in the code."""
    if (task.prediction_code, task.target_code) != ("predictions", "targets"):
        loss = PreparedLoss(loss, task.prediction_code, task.target_code)
    code = code.replace("TARGETS", task.target_code).replace("PREDICTIONS", task.prediction_code)
    if task.kind != "regression" and _are_probabilities(task.predictions):
        reason += " The predictions look like probabilities: remove the last sigmoid or softmax."
        evidence.append(
            Evidence(
                quantity="range of the predictions",
                seen="0 to 1",
                text="the loss expects raw logits",
            )
        )
    return LossAdvice(task.kind, loss, code, reason, tuple(evidence), tuple(alternatives))


def _are_probabilities(predictions: Tensor | None) -> bool:
    if predictions is None or len(predictions) < PROBABILITIES_MIN:
        return False
    values = predictions.detach().double()
    return bool(((values >= 0) & (values <= 1)).all())


def call(module: str) -> str:
    """Return a line that calls a module of `torch.nn`."""
    return f"loss = nn.{module}(PREDICTIONS, TARGETS)"


def filled(task: Task, alternatives: list[Alternative]) -> list[Alternative]:
    """Return the alternatives with the names of the task's predictions and targets."""
    return [
        Alternative(
            a.code.replace("TARGETS", task.target_code).replace(
                "PREDICTIONS", task.prediction_code
            ),
            a.when,
        )
        for a in alternatives
    ]
