"""Count steps in loops without a torch optimizer: each training loss is one step.

Comes in: the reported training losses. Goes out: whether losses are steps. A hand-written update
changes the weights between two losses; gradient accumulation before the first step of a torch
optimizer does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from trainvitals.structure.parameters import reason_not_measured

CHANGES_MIN: Final = 2
"""Minimum number of weight changes between losses, if no torch optimizer is known."""
CHANGES_MIN_KNOWN: Final = 8
"""The same if an optimizer is known but has not stepped: gathering sharded weights changes them."""
LOSSES_MAX: Final = 256
"""After this number of losses without an optimizer step, losses are steps in any case."""
ENTRIES_COMPARED: Final = 64


class LossSteps:
    """Decides whether losses are steps; `active` is the result."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self.active = False
        self.optimizer_stepped = False
        self._models = models
        self._losses = 0
        self._changes = 0
        self._version = -1
        self._entries: Tensor | None = None

    def can_settle(self, *, optimizer_known: bool) -> bool:
        """Whether the weights changed and no torch optimizer is known."""
        return self._changes > 0 and not optimizer_known

    def stop(self) -> None:
        """Stop counting losses as steps, because an optimizer stepped."""
        self.active, self.optimizer_stepped = False, True
        self._entries = None

    def saw_loss(self, *, optimizer_known: bool) -> None:
        """Count a training loss that was reported before the first optimizer step."""
        self._losses += 1
        self._changes += self._has_changed()
        least = CHANGES_MIN_KNOWN if optimizer_known else CHANGES_MIN
        if self._changes >= least or self._losses >= LOSSES_MAX:
            self.active = True
            self._entries = None

    def _has_changed(self) -> bool:
        trained = [p for p in self._parameters() if p.requires_grad and not reason_not_measured(p)]
        version = sum(p._version for p in trained if not p.is_inference())
        entries = None
        if trained and trained[-1].device.type == "cpu":  # reading another device would block
            # An update through `.data` does not increase `_version`.
            entries = trained[-1].detach().reshape(-1)[:ENTRIES_COMPARED].clone()
        before, self._entries = self._entries, entries
        known, self._version = self._version, version
        if known < 0:
            return False
        same = before is None or entries is None or _equal(before, entries)
        return version != known or not same

    def _parameters(self) -> Iterable[nn.Parameter]:
        return (p for model in self._models.values() for p in model.parameters())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
