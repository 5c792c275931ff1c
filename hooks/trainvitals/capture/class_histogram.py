"""Count the targets of each class over the first measured batches.

Comes in: the number of targets of each class in a loss. Goes out: an event after some batches.
"""

from __future__ import annotations

import time
from typing import Final

from torch import Tensor, nn

from trainvitals.wire import Event, EventKind

CLASSES_MAX: Final = 64
BATCHES: Final = (1, 8, 64)
"""Numbers of measured batches after which the event is emitted."""


class ClassHistogram:
    """The sum over the batches of a run; the first loss of a step counts."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._batches = 0
        self._step = -1

    def add(self, step: int, counts: Tensor) -> Event | None:
        """Add the targets of one loss, by class; return the event if one is due.

        A loss that a hook and the program both report in a step counts once. Counts on a device are
        left out: reading them would wait for it.
        """
        if step == self._step or self._batches >= BATCHES[-1] or len(counts) > CLASSES_MAX:
            return None
        if counts.device.type != "cpu":
            return None
        before = self._sum
        if before is not None and len(before) != len(counts):
            size = max(len(before), len(counts))
            before, counts = (nn.functional.pad(x, (0, size - len(x))) for x in (before, counts))
        self._sum = counts if before is None else before + counts
        self._step, self._batches = step, self._batches + 1
        if self._batches not in BATCHES:
            return None
        classes: dict[str, str | float] = {
            str(i): float(n) for i, n in enumerate(self._sum.tolist())
        }
        batches = "1 batch" if self._batches == 1 else f"{self._batches} batches"
        text = f"{len(classes)} classes in {batches}"
        return Event(max(0, step), time.time(), EventKind.CLASS_HISTOGRAM, text, classes)
