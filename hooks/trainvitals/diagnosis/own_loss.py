"""Losses that the program computes itself, and whether a loss of torch can replace them.

Comes in: a history. Goes out: the operations that left their range, and yes or no.
Promise:  pure; without events of the loss the answer is no.
"""

from __future__ import annotations

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.supervision import loss_kinds
from trainvitals.wire import EventKind

OPERATIONS = {
    "log": "x.clamp_min(1e-8).log()",
    "sqrt": "(x + 1e-8).sqrt()",
    "div": "a / b.clamp_min(1e-8)",
    "exp": "x.clamp_max(80.0).exp()",
}
"""Operation that capture found out of range before a non-finite loss → its guarded form."""


def operations_before(history: History, step: int) -> list[str]:
    """Return the operations that capture found out of range before the loss of that step."""
    for event in history.events:
        if event.kind == EventKind.NONFINITE_LOSS and event.step == step:
            return [name for name in event.text.split(",") if name in OPERATIONS]
    return []


def computes_its_loss(history: History, step: int) -> bool:
    """Whether the loss of `step` is not one of torch's, although one of these would fit.

    Also a loss of torch beside a logarithm, root, division or exponential that left its range.
    """
    if not has_usual_loss(history):
        return False
    # After a backward pass that was not finite, the next loss shows the operation.
    beside = operations_before(history, step) or operations_before(history, step + 1)
    return not any(k.last_activation or (k.kinds and not beside) for k in loss_kinds(history))


def has_usual_loss(history: History) -> bool:
    """Whether a loss of torch takes the predictions and targets of the run's losses, as they are.

    Class numbers with one output for each class, or targets with the shape of the predictions.
    """
    known = loss_kinds(history)
    return bool(known) and all(
        (
            k.classes > 1
            and len(k.prediction_shape) == 2
            and k.target_shape == k.prediction_shape[:1]
        )
        or (bool(k.target_shape) and k.target_shape == k.prediction_shape)
        for k in known
    )
