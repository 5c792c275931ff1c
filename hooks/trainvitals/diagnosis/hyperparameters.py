"""The hyperparameters of the optimizers at their first step.

Comes in: a history. Goes out: the values of one of them, as recorded.
Promise:  pure.
"""

from __future__ import annotations

from trainvitals.diagnosis.history import History
from trainvitals.wire import EventKind


def recorded(history: History, name: str) -> list[str | float]:
    """Return the values of a hyperparameter in all parameter groups; empty without one.

    Numbers are float; True, False, None and tuples are text: "0.9, 0.999".
    """
    return [
        value
        for event in history.events
        if event.kind == EventKind.OPTIMIZER
        for key, value in event.attributes.items()
        if key.startswith(f"{name}/")
    ]
