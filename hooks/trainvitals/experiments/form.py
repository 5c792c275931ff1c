"""How predictions and targets enter a loss and a metric.

Comes in: the targets and predictions of some samples. Goes out: the task and both in its form:
numbers and labels of the same shape, or logits (n, classes, …) with class indices (n, …).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainvitals.remedies.tasks import IGNORED, PREDICTIONS, TARGETS, Kind, task_of


@dataclass(frozen=True)
class Form:
    """The task of the targets, and how tensors take its form."""

    kind: Kind
    classes: int
    prediction_code: str
    target_code: str
    sigma: float
    """Regression: 1.4826 × the median absolute deviation of the targets; 1 if that is 0."""

    @property
    def is_classification(self) -> bool:
        """Whether predictions are logits."""
        return self.kind != "regression"

    def prediction(self, value: Tensor) -> Tensor:
        """Return a prediction as the loss takes it."""
        return PREDICTIONS[self.prediction_code](value)

    def target(self, value: Tensor) -> Tensor:
        """Return a target as the loss takes it."""
        target = TARGETS[self.target_code](value)
        return target.float() if target.dtype == torch.float64 else target

    def pairs(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return both for a metric: (n, classes) logits with indices (n,), or (n, columns) each.

        Ignored targets (−100) are left out.
        """
        prediction = self.prediction(prediction.detach())
        if self.kind == "multi_class":
            kept = self.target(target).flatten() != IGNORED
            return prediction.movedim(1, -1).flatten(0, -2)[kept].double(), self.targets(target)
        return prediction.reshape(len(prediction), -1).double(), self.targets(target)

    def targets(self, target: Tensor) -> Tensor:
        """Return the targets for a metric: indices (n,), or numbers (n, columns)."""
        target = self.target(target)
        if self.kind == "multi_class":
            return target[target != IGNORED]
        return target.reshape(len(target), -1).double()


def form_of(targets: Tensor, predictions: Tensor) -> Form:
    """Return the form of the targets. Raises ValueError if they fit no loss."""
    task = task_of(targets, predictions, ordered=False)
    sigma = 1.0
    if task.kind == "regression":
        values = task.values
        sigma = 1.4826 * float((values - values.median(0).values).abs().median()) or 1.0
    return Form(task.kind, task.classes, task.prediction_code, task.target_code, sigma)
