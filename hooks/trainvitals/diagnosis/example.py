"""Build small synthetic histories for the examples of the rules and for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainvitals.diagnosis.history import History
from trainvitals.wire import (
    STATISTICS,
    Frame,
    Layout,
    Place,
    Stat,
    Stream,
)

Column = npt.ArrayLike
"""A number (the same at every step) or one number for each step."""


class Example:
    """Builds a History: one call per stream, values by place and statistic.

    >>> history = Example(steps=100).scalars(loss=[2.3] * 100).history
    """

    def __init__(self, steps: int | Sequence[int], *, total_steps: int | None = None) -> None:
        """`steps`: the number of steps from 0, or the step numbers."""
        self.steps = np.arange(steps) if isinstance(steps, int) else np.asarray(steps, np.int64)
        self.history = History()
        self.history.total_steps = total_steps

    def scalars(self, **columns: Column) -> Example:
        """Add scalars by name; write `__` for `/` in a name (learning_rate__0)."""
        named = {name.replace("__", "/"): {Stat.VALUE: c} for name, c in columns.items()}
        return self.stream(Stream.SCALAR, [Place(n) for n in named], named)

    def stream(
        self,
        stream: Stream,
        places: Sequence[Place],
        columns: Mapping[str, Mapping[Stat, Column]],
    ) -> Example:
        """Add a stream: `columns` is place → statistic → values; missing values are NaN."""
        statistics = STATISTICS[stream]
        values = np.full((len(self.steps), len(places), len(statistics)), np.nan, np.float32)
        for row, place in enumerate(places):
            for statistic, column in columns.get(place.name, {}).items():
                values[:, row, statistics.index(statistic)] = np.asarray(column, np.float32)
        self.history.add(Layout(stream, 0, statistics, tuple(places)))
        self.history.add(
            Frame(stream, 0, self.steps.astype(np.int64), self.steps.astype(np.float64), values)
        )
        return self
