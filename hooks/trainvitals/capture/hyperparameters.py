"""The class and the hyperparameters of an optimizer, recorded once, at its first step.

Comes in: an optimizer before its first update. Goes out: an event.
Promise:  reads no tensor of a device; `trainvitals.comparison` reads the event.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Final

from torch import Tensor
from torch.optim.optimizer import Optimizer

from trainvitals.wire import Event, EventKind

GROUPS_MAX: Final = 32
"""Maximum number of parameter groups whose hyperparameters are recorded."""
_NOT_MATHEMATICS: Final = frozenset(
    {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
)
"""Entries of a group that do not change what the optimizer computes."""


def optimizer_event(optimizer: Optimizer, index: int, step: int) -> Event:
    """Return the event (`EventKind.OPTIMIZER`) of the optimizer that steps first as the `index`-th.

    Values that a schedule changes, as the learning rate, are those of this step.
    """
    known: dict[str, str | float] = {
        "optimizer": float(index),
        "groups": float(len(optimizer.param_groups)),
    }
    for at, group in enumerate(optimizer.param_groups[:GROUPS_MAX]):
        known |= {f"{name}/{at}": value for name, value in _of_group(group).items()}
    return Event(step, time.time(), EventKind.OPTIMIZER, type(optimizer).__name__, known)


def _of_group(group: Mapping[str, object]) -> dict[str, str | float]:
    """Return numbers as numbers, True, False and None as text, a tuple of numbers as "0.9, 0.999".

    Other values, and numbers that are not finite, are left out.
    """
    values = {n: _plain(v) for n, v in group.items() if n not in _NOT_MATHEMATICS}
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: object) -> str | float | None:
    if value is None or isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, (tuple, list)):
        items = [_plain(item) for item in value]
        return ", ".join(f"{i:.9g}" if isinstance(i, float) else str(i) for i in items)
    if isinstance(value, Tensor):
        readable = value.numel() == 1 and value.device.type == "cpu"
        value = value.item() if readable else math.nan
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None
