"""Copy the values of a step from devices to the host without waiting.

On the CPU they are there at once. Otherwise all values of a step are concatenated on each device
and copied to pinned memory; the step is emitted when the copies' events have completed, some steps
later. This path was not measured on hardware.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from trainvitals.capture.step import Remote, Step

WAITING_MAX: Final = 64
"""Maximum number of steps on their way; the oldest is dropped instead of waiting for it."""
Emit = Callable[[Step], None]


class _Copy(NamedTuple):
    remotes: list[Remote]
    host: Tensor
    event: Any

    def is_done(self, *, wait: bool) -> bool:
        if self.event is None:
            return True
        if wait:
            self.event.synchronize()
        return bool(self.event.query())


class Transfer:
    """A queue of steps in their order; `emit` is called with each one when it is complete."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Step, list[_Copy], Emit]] = deque()
        self.given_up = 0

    def submit(self, step: Step, emit: Emit) -> None:
        """Copy the step's remote values; emit the step now if it and all before are complete."""
        if not step.remote and not self._waiting:
            emit(step)
            return
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
            self.given_up += 1
        remotes, step.remote = step.remote, []
        devices = dict.fromkeys(r.values.device for r in remotes)
        copies = [_copy([r for r in remotes if r.values.device == d], d) for d in devices]
        self._waiting.append((step, copies, emit))
        self.poll()

    def poll(self, *, wait: bool = False) -> None:
        """Emit the steps that are complete, in order; with `wait` (at the end) all of them."""
        while self._waiting:
            step, copies, emit = self._waiting[0]
            if not all(copy.is_done(wait=wait) for copy in copies):
                return
            self._waiting.popleft()
            for copy in copies:
                at = 0
                for remote in copy.remotes:
                    count = remote.values.numel()
                    values = copy.host[at : at + count].reshape(remote.values.shape)
                    step.arrived(remote, values.numpy())
                    at += count
            emit(step)


def _copy(remotes: list[Remote], device: torch.device) -> _Copy:
    # float64: a sum of squares may exceed float32 although its root does not. Metal has none.
    wide = torch.float32 if device.type == "mps" else torch.float64
    flat = torch.cat([r.values.detach().to(wide).reshape(-1) for r in remotes])
    if device.type != "cuda":
        # Without events here, a copy that does not wait could be read too early.
        return _Copy(remotes, flat.cpu(), None)
    host = torch.empty(flat.shape, dtype=wide, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return _Copy(remotes, host, event)
