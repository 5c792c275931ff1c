"""What happens to an update whose gradients are not finite.

Comes in: an optimizer before and after its step, and what was measured of its gradients.
Goes out: an event for each such update; in the modes veto and stop, the optimizer sees no gradient.
Promise:  with the mode off nothing is read and nothing is changed.

The decision is made where the optimizer steps, after the gradients were reduced over the ranks, so
that all ranks of a data-parallel job decide the same without communication by trainvitals.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from trainvitals.capture.step import Total
from trainvitals.wire import Event, EventKind, Record

MODES: Final = ("off", "report", "veto", "stop")
EVENTS_MAX: Final = 64


class UpdateGuard:
    """`vetoed` counts the updates that were prevented. `stopping` is the reason to stop, or "".

    `first_bad` is the first step whose non-finite gradients reached the weights, None before.
    """

    def __init__(self, mode: str, emit: Callable[[Record], None]) -> None:
        self.mode = mode
        self.vetoed = 0
        self.stopping = ""
        self.first_bad: int | None = None
        self._emit = emit
        self._events = 0
        self._hidden: list[tuple[Tensor, Tensor | None]] = []

    @property
    def prevents(self) -> bool:
        """Whether an update with non-finite gradients is prevented."""
        return self.mode in ("veto", "stop")

    def before(self, optimizer: Optimizer, total: Total | None, step: int) -> None:
        """Hide the gradients from an optimizer if they are not finite, or report them.

        `total` is what was measured of them; None: they are read here, which waits for the device.
        """
        if self.mode == "off" or not _nonfinite(optimizer, total):
            return
        if self.prevents:
            self._hide(optimizer)
            self.vetoed += 1
        if self.mode == "stop":
            self.stopping = f"the gradients of step {step} are not finite"
        if self._events < EVENTS_MAX:
            self._events += 1
            text = "the update was prevented" if self.prevents else "the update was made"
            self._emit(Event(step, time.time(), EventKind.NONFINITE_UPDATE, text))

    def after(self) -> None:
        """Restore the gradients."""
        hidden, self._hidden = self._hidden, []
        for parameter, gradient in hidden:
            parameter.grad = gradient

    def saw_nonfinite(self, step: int) -> None:
        """Remember a step with non-finite gradients, if they reached the weights."""
        if not self.prevents and (self.first_bad is None or step < self.first_bad):
            self.first_bad = step

    def _hide(self, optimizer: Optimizer) -> None:
        # An optimizer skips a parameter without a gradient: neither it nor its state changes.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None


def _nonfinite(optimizer: Optimizer, total: Total | None) -> bool:
    if total is not None:
        return total.nonfinite > 0
    gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    dense = [g for g in gradients if g.layout is torch.strided]
    with torch.no_grad():
        finite = [g.isfinite().all() for g in dense]
    return not all(bool(f) for f in finite)
