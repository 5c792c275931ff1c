"""Copies of the model and the optimizer every 64 steps, if they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

EVERY: Final = 64
KEPT: Final = 2


class Snapshot(NamedTuple):
    """State dicts at the start of a step, on the CPU; readable with `weights_only=True`."""

    step: int
    models: dict[str, Any]
    optimizers: list[Any]


class Snapshots:
    """The last two snapshots; the older one is 64 to 128 steps old."""

    def __init__(
        self, models: Mapping[str, nn.Module], optimizers: Callable[[], Sequence[Optimizer]]
    ) -> None:
        self._models, self._optimizers = models, optimizers
        self._kept: deque[Snapshot] = deque(maxlen=KEPT)

    def begin(self, step: int) -> None:
        """Take a snapshot if it is due at the start of `step`; copies on the calling thread."""
        if self._kept and step % EVERY:
            return
        with torch.no_grad():
            self._kept.append(
                Snapshot(
                    step,
                    {name: _copied(model.state_dict()) for name, model in self._models.items()},
                    [_copied(optimizer.state_dict()) for optimizer in self._optimizers()],
                )
            )

    def before(self, step: int) -> Snapshot | None:
        """Return the newest snapshot at or before a step, otherwise the oldest one."""
        earlier = [kept for kept in self._kept if kept.step <= step]
        if earlier:
            return earlier[-1]
        return self._kept[0] if self._kept else None


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(part) for part in value)
    return value
