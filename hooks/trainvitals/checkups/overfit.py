"""Try to fit one batch: a model that cannot do that has a fault outside the data."""

from __future__ import annotations

import torch
from torch import nn

from trainvitals.checkups.batches import LossFunction, run

LEARNING_RATE = 1e-3


def overfitted(
    model: nn.Module, batch: object, loss: LossFunction | None, steps: int
) -> tuple[float, float] | None:
    """Return the loss before and after `steps` steps of AdamW(1e-3) on `batch`; None for 0 steps.

    Changes the model: use it inside `preserve.preserved`. The second loss is the smallest of the
    last ten: dropout makes single losses noisy.
    """
    if steps <= 0:
        return None
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.0
    )
    losses = []
    with torch.enable_grad():
        for _ in range(steps + 1):
            optimizer.zero_grad()
            value = run(model, batch, loss).value
            losses.append(float(value.detach()))
            torch.autograd.backward(value)
            if len(losses) <= steps:
                optimizer.step()
    return losses[0], min(losses[-10:])
