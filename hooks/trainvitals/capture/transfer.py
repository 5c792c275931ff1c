"""Copy the values of a step from devices to the host without waiting.

On the CPU they are available at once. Otherwise all values of a step are concatenated on each
device and copied to pinned memory that is kept; the step is emitted when the copies' events have
completed, some steps later. The path for CUDA was never run on hardware.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import compress
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from trainvitals.capture.device import (
    PinnedMemory,
    Span,
    is_capturing,
    launches,
    recorded,
    seconds_of,
    take_spans,
)
from trainvitals.capture.step import Remote, Step

WAITING_MAX: Final = 64
"""Maximum number of steps on their way; the oldest is dropped instead of waiting for it."""
FINISH_S: Final = 2.0
POLL_S: Final = 0.001
"""Longest wait for the last steps at the end of a run, and the time between two looks."""
Emit = Callable[[Step], None]


class _Copy(NamedTuple):
    remotes: list[Remote]
    host: Tensor
    event: Any

    def is_done(self) -> bool:
        return self.event is None or bool(self.event.query())


class _Waiting(NamedTuple):
    step: Step
    copies: list[_Copy]
    emit: Emit
    spans: list[Span]


class Transfer:
    """A queue of steps in their order; `emit` is called with each one when it is complete.

    `waiting` are the steps in the queue. While it is empty, a step without remote values need not
    be submitted.
    """

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self._dropped: list[_Copy] = []
        self._memory = PinnedMemory(pinned=True)
        self._device_s = 0.0
        self.given_up = 0

    def submit(self, step: Step, emit: Emit) -> None:
        """Copy the step's remote values; emit the step now if it and all before are complete."""
        if len(self.waiting) >= WAITING_MAX:
            self._dropped += self.waiting.popleft().copies
            self.given_up += 1
        # In a graph the copies would be repeated later, into memory that is used for other steps.
        remotes = [r for r in step.remote if not is_capturing(r.values.device)]
        step.remote = []
        devices = dict.fromkeys(r.values.device for r in remotes)
        copies = [self._copy([r for r in remotes if r.values.device == d], d) for d in devices]
        self.waiting.append(_Waiting(step, copies, emit, take_spans()))
        self.poll()

    def finish(self) -> None:
        """Emit the steps that are complete within `FINISH_S`, and give up the others.

        A device that does not answer, as when a collective operation of the program hangs, must not
        keep the program from its end.
        """
        until = time.monotonic() + FINISH_S
        self.poll()
        while self.waiting and time.monotonic() < until:
            time.sleep(POLL_S)
            self.poll()
        self.given_up += len(self.waiting)
        self.waiting.clear()

    def poll(self) -> None:
        """Emit the steps that are complete, in order."""
        while self.waiting:
            step, copies, emit, spans = self.waiting[0]
            if not all(copy.is_done() for copy in copies):
                break
            self.waiting.popleft()
            self._device_s += seconds_of(spans)
            for copy in copies:
                at = 0
                for remote in copy.remotes:
                    count = remote.values.numel()
                    values = copy.host[at : at + count].reshape(remote.values.shape)
                    step.arrived(remote, values.numpy())
                    at += count
                self._give_back(copy)
            emit(step)
        done = [copy.is_done() for copy in self._dropped]
        for copy in compress(self._dropped, done):
            self._give_back(copy)
        self._dropped = [c for c, is_done in zip(self._dropped, done, strict=True) if not is_done]

    def device_s(self) -> float:
        """Return the device time of all launches up to now, as far as it is known."""
        return self._device_s

    def _copy(self, remotes: list[Remote], device: torch.device) -> _Copy:
        # float64: a sum of squares may exceed float32 although its root does not. Metal has none.
        wide = torch.float32 if device.type == "mps" else torch.float64
        with launches(device):
            flat = torch.cat([r.values.detach().to(wide).reshape(-1) for r in remotes])
            if device.type != "cuda":
                # Without events here, a copy that does not wait could be read too early.
                return _Copy(remotes, flat.cpu(), None)
            host = self._memory.take(flat.numel(), wide)
            host.copy_(flat, non_blocking=True)
        return _Copy(remotes, host, recorded(device))

    def _give_back(self, copy: _Copy) -> None:
        if copy.event is not None:
            self._memory.give_back(copy.host)
