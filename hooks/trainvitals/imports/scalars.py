"""Named numbers over steps, as other tools log them, as pages of the stream `scalar`.

Comes in: one number after another. Goes out: pages with one place for each name, `log/<name>`, as
`Monitor.log` would have stored them. A name without a number at a step is NaN there.
Start at `Scalars.add`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np

from trainvitals.imports.pages import Page
from trainvitals.wire import Scalar, Stat, Stream
from trainvitals.wire.sanitise import name as storable

_STEPS: Final = 4096
_STEP_MAX: Final = 2**53
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


class Scalars:
    """Collects the numbers of a run."""

    def __init__(self, loss: str = "") -> None:
        """`loss` is the name of the training loss; it is stored as `loss`, which rules read."""
        self._loss = loss
        self._values: dict[str, dict[int, float]] = {}
        self._times: dict[int, float] = {}
        self.left_out: Counter[str] = Counter()

    def add(self, tag: str, step: int, time: float, value: float) -> None:
        """Add a number; of several with one name and step, the last one counts."""
        if not 0 <= step < _STEP_MAX:
            self.left_out["values without a valid step"] += 1
            return
        if math.isfinite(value) and abs(value) > _FLOAT32_MAX:
            self.left_out["values outside the range of float32"] += 1
            return
        series = self._values.setdefault(tag, {})
        if step in series:
            self.left_out["values that a later one of the same step replaces"] += 1
        series[step] = value
        self._times.setdefault(step, time if math.isfinite(time) else 0.0)

    def pages(self) -> Iterator[Page]:
        """Yield the pages, steps ascending."""
        tags = sorted(self._values)
        places = tuple(Scalar.LOSS if t == self._loss else storable(f"log/{t}") for t in tags)
        steps = np.array(sorted(self._times), np.int64)
        for lo in range(0, len(steps), _STEPS):
            here = steps[lo : lo + _STEPS]
            values = np.full((len(here), len(tags), 1), np.nan, np.float32)
            absent = 0
            for column, tag in enumerate(tags):
                series = self._values[tag]
                for row, step in enumerate(here.tolist()):
                    if step in series:
                        values[row, column, 0] = series[step]
                    else:
                        absent += 1
            times = np.array([self._times[step] for step in here.tolist()], np.float64)
            yield Page(Stream.SCALAR, places, (Stat.VALUE,), here, times, values, absent)
