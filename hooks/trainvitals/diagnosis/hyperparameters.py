"""The hyperparameters of the optimizers, at their first step or now.

Comes in: a history. Goes out: the values of one of them, as recorded.
Promise:  pure.
"""

from __future__ import annotations

from typing import Final

from trainvitals.diagnosis.history import History
from trainvitals.wire import EventKind, Scalar

SHRINKING: Final = frozenset({"AdamW", "SGD", "Muon"})
"""Optimizers whose weight decay multiplies each weight by 1 − lr · weight_decay per step."""

ADDING: Final = frozenset({"Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad"})
"""Optimizers that add weight_decay · weight to the gradient and divide the sum by its own size."""


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


def newest_of_groups(history: History, name: Scalar) -> float:
    """Return the newest value of a scalar of the parameter groups, the largest of the groups."""
    return max(of_groups(history, name), default=float("nan"))


def of_groups(history: History, name: Scalar) -> list[float]:
    """Return the newest value of a scalar in each parameter group that has one."""
    return [
        float(series.values[-1])
        for scalar in history.scalar_names()
        if scalar.startswith(f"{name}/") and len(series := history.scalar(scalar))
    ]
