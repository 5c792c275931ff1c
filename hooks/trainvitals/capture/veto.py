"""What happens to an update whose gradients are not finite.

Comes in: an optimizer before and after its step, and what was measured of its gradients.
Goes out: an event for each such update; in the modes veto and stop, the optimizer sees no gradient.
Promise:  with the mode off nothing is read and nothing is changed. An update is prevented on all
          ranks of a job or on none, without communication by trainvitals.

The decision is made where the optimizer steps, after the gradients were reduced over the ranks.
Where each rank has all gradients (one process, DistributedDataParallel), it is made from them.
Where the parameters are sharded, each rank sees its part: the decision is made from the total norm
that the program's clip_grad_norm_ has reduced over the ranks, and without one the update is made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from trainvitals.api.schema import Prevented
from trainvitals.capture.reasons import GUARD_WITHOUT_NORM
from trainvitals.capture.step import Total
from trainvitals.structure.parameters import Sharding, local_of
from trainvitals.wire import Event, EventKind, Record

log = logging.getLogger("trainvitals")

MODES: Final = ("off", "report", "veto", "stop")
EVENTS_MAX: Final = 64


class UpdateGuard:
    """`vetoed` counts the updates that were prevented, `prevented` adds their first and last step.
    `stopping` is the reason to stop, or "".

    `first_bad` is the first step whose non-finite gradients reached the weights, None before.
    `report` is called with "guard" and the reason when updates cannot be prevented.
    """

    def __init__(
        self, mode: str, emit: Callable[[Record], None], report: Callable[[str, str], None]
    ) -> None:
        self.mode = mode
        self.prevented: Prevented | None = None
        self.stopping = ""
        self.first_bad: int | None = None
        self._emit = emit
        self._report = report
        self._events = 0
        self._has_warned = False
        self._hidden: list[tuple[Tensor, Tensor | None]] = []

    @property
    def vetoed(self) -> int:
        """Number of updates that were prevented."""
        return 0 if self.prevented is None else self.prevented.updates

    @property
    def prevents(self) -> bool:
        """Whether an update with non-finite gradients is to be prevented."""
        return self.mode in ("veto", "stop")

    def before(
        self,
        optimizer: Optimizer,
        total: Total | None,
        step: int,
        *,
        sharding: Sharding | None = None,
        norm: float | Tensor | None = None,
    ) -> None:
        """Hide the gradients from an optimizer if they are not finite, or report them.

        `total` is what was measured of them; None: they are read here, which waits for the device.
        `sharding` is how parameters are divided over the ranks, `norm` the norm of the gradients on
        all ranks if it is known. Raises no exception of its own.
        """
        if self.mode == "off":
            return
        if sharding is None or norm is None:
            is_bad = _nonfinite(optimizer, total)
        else:
            is_bad = not bool(torch.as_tensor(norm).isfinite())
        can_prevent = self.prevents and (sharding is None or norm is not None)
        if self.prevents and sharding is not None and norm is None:
            self._warn(sharding)
        if not is_bad:
            return
        if can_prevent:
            self._hide(optimizer)
            first = step if self.prevented is None else self.prevented.first_step
            self.prevented = Prevented(updates=self.vetoed + 1, first_step=first, last_step=step)
        else:
            self._reached_weights(step)
        if self.mode == "stop":
            done = "prevented; the weights are those before it" if can_prevent else "made"
            self.stopping = f"the gradients of step {step} are not finite. Its update was {done}"
        if self._events < EVENTS_MAX:
            self._events += 1
            text = "the update was prevented" if can_prevent else "the update was made"
            self._emit(Event(step, time.time(), EventKind.NONFINITE_UPDATE, text))

    def after(self) -> None:
        """Restore the gradients."""
        hidden, self._hidden = self._hidden, []
        for parameter, gradient in hidden:
            parameter.grad = gradient

    def saw_nonfinite(self, step: int) -> None:
        """Remember a step with non-finite gradients, unless `before` decides about the updates."""
        if not self.prevents:
            self._reached_weights(step)

    def _reached_weights(self, step: int) -> None:
        if self.first_bad is None or step < self.first_bad:
            self.first_bad = step

    def _warn(self, sharding: Sharding) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        reason = GUARD_WITHOUT_NORM.format(sharding.description)
        log.warning("guard=%s does not prevent an update: %s", self.mode, reason)
        self._report("guard", reason)

    def _hide(self, optimizer: Optimizer) -> None:
        # An optimizer skips a parameter without a gradient: neither it nor its state changes.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None


def _nonfinite(optimizer: Optimizer, total: Total | None) -> bool:
    """Return whether an entry of this process's gradients is NaN or infinite."""
    if total is not None:
        return total.nonfinite > 0
    # A test of a DTensor itself would communicate.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [local_of(p.grad).detach() for p in parameters if p.grad is not None]
    values = [g.coalesce().values() if g.layout is torch.sparse_coo else g for g in gradients]
    with torch.no_grad():
        finite = [v.isfinite().all() for v in values if v.layout is torch.strided]
    return not all(bool(f) for f in finite)
