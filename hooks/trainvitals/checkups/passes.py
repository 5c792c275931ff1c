"""Measure a model by some forward and backward passes, without an update.

Comes in: a model, batches, a loss. Goes out: the history that the rules read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from trainvitals.capture import Capture
from trainvitals.checkups.batches import LossFunction, run
from trainvitals.diagnosis.history import History

log = logging.getLogger("trainvitals")


class NoUpdate(Optimizer):
    """An optimizer with the groups of another one (or of a model) whose step changes nothing."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__([dict(group) for group in groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do nothing: the hooks of the capture run around this call."""


def measured(
    model: nn.Module, batches: Iterable[object], loss: LossFunction | None, optimizer: object
) -> tuple[History, dict[str, str], bool]:
    """Return the history, what was not measured with the reason, and whether there was a loss.

    Changes gradients, and what the passes change: use it inside `preserve.preserved`.
    """
    history = History()
    groups = (
        optimizer.param_groups
        if isinstance(optimizer, Optimizer)
        else [{"params": [p for p in model.parameters() if p.requires_grad]}]
    )
    if not any(group["params"] for group in groups):
        raise ValueError("The model has no trainable parameters: there is nothing to check.")
    step = NoUpdate(groups)
    is_module = isinstance(loss, nn.Module)
    capture = Capture(model, step, emit=history.add, every=1, loss=loss if is_module else None)
    history.facts.update(capture.facts)
    if isinstance(optimizer, Optimizer):
        history.facts["optimizer"] = type(optimizer).__name__
    has_loss = True
    try:
        with torch.enable_grad():
            for batch in batches:
                model.zero_grad(set_to_none=True)
                one = run(model, batch, loss)
                has_loss = one.is_loss
                if one.is_loss:
                    capture.loss(one.value, prediction=one.prediction, target=one.target)
                torch.autograd.backward(one.value)
                step.step()
    finally:
        capture.detach()
    return history, dict(capture.not_watched), has_loss
