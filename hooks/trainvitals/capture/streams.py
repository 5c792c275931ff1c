"""Emit the layouts and frames of the streams.

The scalars of short steps are emitted together: a frame of 64 steps costs hardly more than one of a
single step, in this thread and in those that read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from trainvitals.wire import STATISTICS, Frame, Layout, Place, Record, Stream

Emit = Callable[[Record], None]

ROWS_MAX: Final = 64
WAIT_S: Final = 0.25
"""Limits of the steps whose scalars are emitted together: their number, and the time since the
scalars were last emitted. The scalars of a step that takes longer are emitted at its end."""


class Streams:
    """Emits a layout whenever a stream's places change, and frames under the newest one."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._places: dict[Stream, tuple[Place, ...]] = {}
        self._versions: dict[Stream, int] = {}
        self._scalars: dict[str, None] = {}  # in order
        self._rows: list[tuple[int, float, Callable[[], Mapping[str, float]]]] = []
        self._emitted_at = 0.0

    def frame(
        self,
        stream: Stream,
        step: npt.NDArray[np.int64],
        time: npt.NDArray[np.float64],
        places: tuple[Place, ...],
        values: npt.NDArray[np.float32],
    ) -> None:
        """Emit one step of a stream, shape (places, statistics); no array is copied.

        `step` and `time` (seconds since 1970) have one element.
        """
        if self._places.get(stream) is not places:
            self._announce(stream, places)
        self._emit(Frame(stream, self._versions[stream], step, time, values[None]))

    def scalars(
        self, step: int, time: float, scalars: Callable[[], Mapping[str, float]], *, urgent: bool
    ) -> None:
        """Add one step of scalars; new names extend the layout, missing ones are NaN.

        Scalars that are not `urgent` may be computed and emitted later, with those of the next
        steps.
        """
        rows = self._rows
        if rows and step <= rows[-1][0]:
            self.flush()  # the steps of a frame ascend
        rows.append((step, time, scalars))
        if urgent or len(rows) >= ROWS_MAX or time - self._emitted_at >= WAIT_S:
            self.flush()

    def flush(self) -> None:
        """Emit the scalars that were added."""
        rows = tuple(self._rows)
        if not rows:
            return
        del self._rows[: len(rows)]
        names = self._scalars
        found = [scalars() for _, _, scalars in rows]
        if any(not scalars.keys() <= names.keys() for scalars in found):
            for scalars in found:
                names |= dict.fromkeys(scalars)
            self._announce(Stream.SCALAR, tuple(Place(name) for name in names))
        values = [[scalars.get(name, math.nan) for name in names] for scalars in found]
        self._emit(
            Frame(
                Stream.SCALAR,
                self._versions[Stream.SCALAR],
                np.array([step for step, _, _ in rows], np.int64),
                np.array([time for _, time, _ in rows]),
                np.array(values, np.float32)[:, :, None],
            )
        )
        self._emitted_at = rows[-1][1]

    def _announce(self, stream: Stream, places: tuple[Place, ...]) -> None:
        known = self._places.get(stream)
        self._places[stream] = places
        if known != places:
            self._versions[stream] = self._versions.get(stream, -1) + 1
            self._emit(Layout(stream, self._versions[stream], STATISTICS[stream], places))
