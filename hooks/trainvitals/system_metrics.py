"""Measure what the training process uses of its machine: CPU, memory and GPUs.

Comes in: time. Goes out: scalars `system/…`, for the next step of the training.
Promise:  everything is read in a background thread, every 5 s; a reading takes about a millisecond.
          A quantity that cannot be read is absent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

PREFIX: Final = "system/"
EVERY_S: Final = 5.0
GIB: Final = 2.0**30
Readings = dict[str, float]


class SystemMetrics:
    """The newest reading. `problems` maps a part that cannot be read to the reason."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.problems: dict[str, str] = {}
        self._clock = clock
        self._due_at = 0.0
        self._process: Any = None
        self._before: tuple[float, float] | None = None
        self._reading: Readings | None = None

    def read_if_due(self) -> None:
        """Read all quantities if the last reading is 5 s old; called in the background thread.

        The first reading is the start of the first interval, and is not returned.
        """
        if self._clock() < self._due_at:
            return
        self._due_at = self._clock() + EVERY_S
        found: Readings = {}
        failed = False
        for part, read in (("use of processor and memory", self._host), ("use of GPUs", _gpus)):
            if part in self.problems:
                continue
            try:
                found |= read()
            except Exception as error:  # noqa: BLE001 - never into the diagnosis or the training
                self.problems[part] = f"{type(error).__name__}: {error}"
                failed = True
        if found or failed:
            self._reading = found

    def take(self) -> Mapping[str, float] | None:
        """Return a reading that was not returned before; None without one. Never waits.

        It is empty if nothing could be read, and `problems` tells why.
        """
        reading, self._reading = self._reading, None
        return reading

    def _host(self) -> Readings:
        import psutil

        if self._process is None:
            self._process = psutil.Process()
        times = self._process.cpu_times()
        now, used = self._clock(), times.user + times.system
        share = psutil.cpu_percent() / 100
        before, self._before = self._before, (now, used)
        if before is None or now <= before[0]:
            return {}
        return {
            f"{PREFIX}process_cores": (used - before[1]) / (now - before[0]),
            f"{PREFIX}cpu_share": share,
            f"{PREFIX}process_memory_gib": self._process.memory_info().rss / GIB,
            f"{PREFIX}available_memory_gib": psutil.virtual_memory().available / GIB,
        }


def _gpus() -> Readings:
    """Return utilisation and memory of each GPU on which this process holds memory.

    `torch.cuda` reads them with the package nvidia-ml-py; nothing is read, and no context is made,
    before the program has used a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    found: Readings = {}
    for i in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(i):
            found[f"{PREFIX}gpu{i}_share"] = torch.cuda.utilization(i) / 100
            found[f"{PREFIX}gpu{i}_memory_gib"] = torch.cuda.device_memory_used(i) / GIB
    return found
