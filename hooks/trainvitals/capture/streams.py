"""Emit the layouts and frames of the streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from trainvitals.wire import STATISTICS, Frame, Layout, Place, Record, Stream

Emit = Callable[[Record], None]


class Streams:
    """Emits a layout whenever a stream's places change, and frames under the newest one."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._places: dict[Stream, tuple[Place, ...]] = {}
        self._versions: dict[Stream, int] = {}
        self._scalars: dict[str, None] = {}  # in order

    def frame(
        self,
        stream: Stream,
        step: int,
        time: float,
        places: tuple[Place, ...],
        values: npt.NDArray[np.float32],
    ) -> None:
        """Emit one step of a stream: float32, shape (places, statistics); it is not copied."""
        if self._places.get(stream) is not places:
            self._announce(stream, places)
        self._emit(
            Frame(
                stream,
                self._versions[stream],
                np.array([step], np.int64),
                np.array([time]),
                values[None],
            )
        )

    def scalars(self, step: int, time: float, scalars: Mapping[str, float]) -> None:
        """Emit one step of scalars; new names extend the layout, missing ones are NaN."""
        if not scalars.keys() <= self._scalars.keys():
            self._scalars |= dict.fromkeys(scalars)
            self._announce(Stream.SCALAR, tuple(Place(name) for name in self._scalars))
        row = [scalars.get(name, math.nan) for name in self._scalars]
        values = np.array(row, np.float32).reshape(-1, 1)
        self.frame(Stream.SCALAR, step, time, self._places[Stream.SCALAR], values)

    def _announce(self, stream: Stream, places: tuple[Place, ...]) -> None:
        known = self._places.get(stream)
        self._places[stream] = places
        if known != places:
            self._versions[stream] = self._versions.get(stream, -1) + 1
            self._emit(Layout(stream, self._versions[stream], STATISTICS[stream], places))
