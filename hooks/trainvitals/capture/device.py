"""What the CUDA backend and the transfer share: pinned memory, and the device time of launches.

Promise:  nothing here waits for a device, except the first allocations of pinned memory.
The CUDA side of this file was never run on hardware.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

SLOTS: Final = 8
BYTES_MIN: Final = 4096
SPANS_MAX: Final = 1024
"""Maximum number of spans that wait for a transfer; older ones are dropped."""
Span = tuple[Any, Any]
"""CUDA events before and after some launches."""
_spans: deque[Span] = deque(maxlen=SPANS_MAX)


class PinnedMemory:
    """Slots of host memory, page-locked if `pinned`, so that a copy does not wait.

    Slots are allocated in groups of `SLOTS` and kept: an allocation of pinned memory may wait for
    the device. The caller returns a slot when no copy uses it any more.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[int, list[Tensor]] = {}

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return `count` entries."""
        size = max(BYTES_MIN, 1 << (count * dtype.itemsize - 1).bit_length())
        free = self._free.setdefault(size, [])
        if not free:
            block = torch.empty((SLOTS, size), dtype=torch.uint8, pin_memory=self._pinned)
            free.extend(block.unbind())
        return free.pop().view(dtype)[:count]

    def give_back(self, taken: Tensor) -> None:
        """Make the memory of `take` available again."""
        size = max(BYTES_MIN, 1 << (taken.numel() * taken.element_size() - 1).bit_length())
        whole = torch.as_strided(taken.view(torch.uint8), (size,), (1,))
        self._free[size].append(whole)


class Uploads:
    """Copies small tables to a device without waiting."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = PinnedMemory(pinned=device.type == "cuda")
        self._copying: deque[tuple[Tensor, Any]] = deque()

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy `source`, on the host, into `target`, on the device, both contiguous."""
        while self._copying and self._copying[0][1].query():
            self._memory.give_back(self._copying.popleft()[0])
        slot = self._memory.take(source.numel(), source.dtype)
        slot.copy_(source.reshape(-1))
        target.view(-1).copy_(slot, non_blocking=True)
        if self._device.type == "cuda":
            self._copying.append((slot, recorded(self._device)))
        else:
            self._memory.give_back(slot)


def recorded(device: torch.device, *, timing: bool = False) -> Any:
    """Return an event on the device's current stream."""
    event = torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def is_capturing(device: torch.device) -> bool:
    """Whether launches on `device` go into a CUDA graph of the user instead of being run now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def launches(device: torch.device) -> Iterator[None]:
    """Launch kernels on `device` inside this block; the next transfer adds up their time.

    The time is from the first launch to the end of the last: on an idle device it includes the
    time between launches. Two monitors in one process share the list of spans.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        before = recorded(device, timing=True)
        yield
        _spans.append((before, recorded(device, timing=True)))


def take_spans() -> list[Span]:
    """Return the spans since the last call."""
    taken = list(_spans)
    _spans.clear()
    return taken


def seconds_of(spans: list[Span]) -> float:
    """Return the duration of the spans that have ended."""
    return float(sum(a.elapsed_time(b) for a, b in spans if b.query())) / 1e3
