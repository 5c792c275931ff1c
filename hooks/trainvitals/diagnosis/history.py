"""The input of the rules: the first steps, a thinned middle, and the newest steps of each stream.

Comes in: records, through `History.add`, in the order of their steps.
Goes out: arrays, one row for each step kept: `values(stream, statistic)`, `scalar(name)`.
Promise:  bounded memory for a run of any length; a value that was not measured is NaN; pure
          numpy, so that the training process and the collector feed the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from trainvitals.wire import (
    Dropped,
    Event,
    EventKind,
    Frame,
    Layout,
    NotWatched,
    Place,
    Record,
    RunStart,
    Scalar,
    Stat,
    Stream,
)

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
P = ParamSpec("P")
T = TypeVar("T")

FIRST_STEPS = 64
"""Frames kept from the start of a run: the initial state is evidence throughout the run."""
STREAM_BYTES_MAX = 4 * 2**20
"""Maximum bytes of one stream's values, once it has more than 4 × FIRST_STEPS frames."""
ROWS_MAX = 4096
LAST_EVENTS = 8
"""Newest events, among which a run that failed reports its unfinished step."""
EVENTS_MAX = 32
"""Frames with non-finite values that thinning keeps."""
NONFINITE_SCALARS = (Scalar.NONFINITE_LOSS, Scalar.NONFINITE_GRADIENTS)


@dataclass(frozen=True)
class Series:
    """One curve: `steps` int64, `values` float32, same length, step ascending."""

    steps: Steps
    values: Values

    def __len__(self) -> int:
        return len(self.steps)

    def finite(self) -> Series:
        """Return the points whose value is finite."""
        keep = np.isfinite(self.values)
        return Series(self.steps[keep], self.values[keep])

    def last(self, n: int) -> Series:
        """Return the newest `n` points (all, when there are fewer)."""
        at = max(0, len(self) - n)
        return Series(self.steps[at:], self.values[at:])

    def since(self, step: int) -> Series:
        """Return the points from `step` on."""
        at = int(np.searchsorted(self.steps, step))
        return Series(self.steps[at:], self.values[at:])


@dataclass
class StreamFrames:
    """The frames of one stream under its newest layout.

    Frames of an older layout are carried over by the names of places and statistics, so a layer
    added at step 1,000 does not erase the values of the others.
    """

    layout: Layout
    steps: Steps
    values: Values
    _used: int = 0
    _index: dict[str, int] = field(default_factory=dict)
    rows_max: int = field(init=False)
    """Number of frames at which the middle is thinned."""

    def __post_init__(self) -> None:
        row_bytes = 4 * max(1, len(self.layout.places) * len(self.layout.statistics))
        self.rows_max = min(ROWS_MAX, max(4 * FIRST_STEPS, STREAM_BYTES_MAX // row_bytes))

    @classmethod
    def of(cls, layout: Layout) -> StreamFrames:
        shape = (256, len(layout.places), len(layout.statistics))
        return cls(
            layout,
            np.empty(shape[0], np.int64),
            np.empty(shape, np.float32),
            _index={place.name: i for i, place in enumerate(layout.places)},
        )

    def append(self, steps: Steps, values: Values) -> None:
        """Append frames, after removing the stored frames from the first new step on.

        These exist only if the training resumed from an earlier step.
        """
        slice_rows = self.rows_max // 8  # _thin makes room for that many
        for at in range(0, len(steps), slice_rows):
            self._append(steps[at : at + slice_rows], values[at : at + slice_rows])

    def _append(self, steps: Steps, values: Values) -> None:
        if self._used and steps[0] <= self.steps[self._used - 1]:
            self._used = int(np.searchsorted(self.steps[: self._used], steps[0]))
        if self._used + len(steps) > self.rows_max:
            self._thin()
        need = self._used + len(steps)
        if need > len(self.steps):
            room = max(need, 2 * len(self.steps))
            self.steps = np.resize(self.steps, room)
            grown = np.empty((room, *self.values.shape[1:]), np.float32)
            grown[: self._used] = self.values[: self._used]
            self.values = grown
        self.steps[self._used : need] = steps
        self.values[self._used : need] = values
        self._used = need

    def _thin(self) -> None:
        # Keep the first steps, the newest half of `rows_max`, and of the steps between an eighth of
        # `rows_max`, evenly spaced. Memory is bounded, and the whole course of a long run is kept.
        recent = self._used - self.rows_max // 2
        middle = self.steps[FIRST_STEPS:recent]
        wanted = np.linspace(middle[0], middle[-1], self.rows_max // 8)
        keep = np.zeros(self._used, bool)
        keep[:FIRST_STEPS] = True
        keep[FIRST_STEPS + np.searchsorted(middle, wanted)] = True
        keep[recent:] = True
        keep |= self._events(FIRST_STEPS, recent)
        kept = int(keep.sum())
        self.steps[:kept] = self.steps[: self._used][keep]
        self.values[:kept] = self.values[: self._used][keep]
        self._used = kept

    def _events(self, start: int, stop: int) -> Flags:
        """Return which frames of the middle contain a non-finite value, shape (frames,).

        At most EVENTS_MAX of them, the oldest: they are kept as evidence.
        """
        columns = [
            self.values[: self._used, :, i] > 0
            for i, statistic in enumerate(self.layout.statistics)
            if statistic is Stat.NONFINITE
        ]
        columns += [
            self.values[: self._used, row, :] > 0
            for row, place in enumerate(self.layout.places)
            if self.layout.stream is Stream.SCALAR and place.name in NONFINITE_SCALARS
        ]
        event = np.zeros(self._used, bool)
        for column in columns:
            event |= column.any(axis=1)
        event[:start] = event[stop:] = False
        event &= np.cumsum(event) <= EVENTS_MAX
        return event

    def relaid(self, layout: Layout) -> StreamFrames:
        """Return these frames under a new layout: rows and columns by name, NaN where new."""
        frames = StreamFrames.of(layout)
        if not self._used:
            return frames
        old_columns = {s: i for i, s in enumerate(self.layout.statistics)}
        rows = [
            (i, self._index[p.name]) for i, p in enumerate(layout.places) if p.name in self._index
        ]
        columns = [(i, old_columns[s]) for i, s in enumerate(layout.statistics) if s in old_columns]
        values = np.full(
            (self._used, len(layout.places), len(layout.statistics)), np.nan, np.float32
        )
        if rows and columns:
            new_r, old_r = (np.array(x) for x in zip(*rows, strict=True))
            new_c, old_c = (np.array(x) for x in zip(*columns, strict=True))
            values[:, new_r[:, None], new_c] = self.values[: self._used, old_r[:, None], old_c]
        frames.append(self.steps[: self._used], values)
        return frames

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, with the room for further frames."""
        return self.steps.nbytes + self.values.nbytes

    def kept(self) -> tuple[Steps, Values]:
        """Return (steps, values) kept, shapes (n,) and (n, places, statistics)."""
        return self.steps[: self._used], self.values[: self._used]

    @property
    def rows(self) -> Mapping[str, int]:
        """Name of each place → its row."""
        return self._index


class History:
    """The first and the recent captured frames of a run, and its facts and events."""

    def __init__(self) -> None:
        self.facts: dict[str, str | float] = {}
        self.total_steps: int | None = None
        self.events: list[Event] = []
        self.not_watched: dict[str, str] = {}
        self.dropped: list[Dropped] = []
        """Records that did not reach the collector; known to the collector only."""
        self.ranks: dict[int, History] = {}
        """Rank → loss, gradient norms, learning rates, weight decays and L2 norms of weights of
        other ranks, at some of their first and newest steps; known to the collector only."""
        self.is_lost = False
        """Whether contact was lost: records stopped, and no end of the run was reported."""
        self._newest_step = -1
        self._streams: dict[Stream, StreamFrames] = {}
        self._results: dict[Hashable, Any] | None = None

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within the block the history does not change, and `once` keeps its results."""
        self._results = {}
        try:
            yield
        finally:
            self._results = None

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`; within `unchanged`, what it returned first for this key."""
        if self._results is None:
            return make()
        if key not in self._results:
            self._results[key] = make()
        result: T = self._results[key]
        return result

    def add(self, record: Record) -> None:
        """Add one record. Frames whose layout was not announced are left out."""
        match record:
            case Frame():
                self._add_frame(record)
            case Layout():
                frames = self._streams.get(record.stream)
                self._streams[record.stream] = (
                    frames.relaid(record) if frames else StreamFrames.of(record)
                )
            case RunStart():
                self.facts.update(record.facts)
                self.total_steps = record.total_steps
            case Event():
                self.events.append(record)
                del self.events[:-1000]
            case NotWatched():
                self.not_watched.update(record.reasons)
            case Dropped():
                self.dropped.append(record)
                del self.dropped[:-1000]
            case _:
                pass  # rules do not read heartbeats and ends

    def _add_frame(self, frame: Frame) -> None:
        frames = self._streams.get(frame.stream)
        if frames is None or frames.layout.version != frame.layout:
            return
        frames.append(frame.steps, frame.values)
        self._newest_step = max(self._newest_step, int(frame.steps[-1]))

    @property
    def nbytes(self) -> int:
        """Bytes of the frames of all streams and ranks."""
        of_ranks = sum(history.nbytes for history in self.ranks.values())
        return of_ranks + sum(frames.nbytes for frames in self._streams.values())

    @property
    def last_step(self) -> int:
        """The newest finished step; −1 before the first."""
        newest = self._newest_step
        unfinished = any(
            event.kind == EventKind.STEP_UNFINISHED and event.step == newest
            for event in self.events[-LAST_EVENTS:]
        )
        return newest - unfinished

    @property
    def steps_seen(self) -> int:
        """Number of steps since the run, or its newest attempt, began."""
        start = self.facts.get("start_step", 0)
        return max(0, self.last_step + 1 - int(start))

    def has(self, stream: Stream) -> bool:
        """Whether at least one frame of `stream` is stored."""
        return stream in self._streams and len(self._streams[stream].kept()[0]) > 0

    def places(self, stream: Stream) -> tuple[Place, ...]:
        """Return the rows of `stream`, in the order of `values`' second axis."""
        return self._streams[stream].layout.places if stream in self._streams else ()

    def rows(self, stream: Stream) -> Mapping[str, int]:
        """Return name of a place → its row in `stream`."""
        frames = self._streams.get(stream)
        return frames.rows if frames else {}

    def steps(self, stream: Stream) -> Steps:
        """Return the captured steps of `stream`, ascending; empty before the first."""
        if stream not in self._streams:
            return np.empty(0, np.int64)
        return self._streams[stream].kept()[0]

    def values(self, stream: Stream, statistic: Stat) -> Values:
        """Return one statistic of all places: float32, shape (captured steps, places).

        NaN where it was not measured. A view: do not write into it. All NaN when the layout
        does not carry the statistic; shape (0, 0) when nothing of the stream was seen.
        """
        if stream not in self._streams:
            return np.empty((0, 0), np.float32)
        frames = self._streams[stream]
        values = frames.kept()[1]
        if statistic not in frames.layout.statistics:
            return np.full(values.shape[:2], np.nan, np.float32)
        column: Values = values[:, :, frames.layout.statistics.index(statistic)]
        return column

    def series(self, stream: Stream, statistic: Stat, place: str) -> Series:
        """Return the curve of one place; empty when the place is unknown."""
        row = self.rows(stream).get(place)
        if row is None:
            return Series(np.empty(0, np.int64), np.empty(0, np.float32))
        return Series(self.steps(stream), self.values(stream, statistic)[:, row])

    def scalar(self, name: str) -> Series:
        """Return a scalar's curve without the steps at which it is NaN.

        NaN here is "not measured"; a loss that became NaN is counted by `Scalar.NONFINITE_LOSS`.
        ±Inf stays in.
        """
        series = self.series(Stream.SCALAR, Stat.VALUE, name)
        keep = ~np.isnan(series.values)
        return Series(series.steps[keep], series.values[keep])

    def scalar_names(self) -> Iterator[str]:
        """Yield the names of all scalars seen."""
        for place in self.places(Stream.SCALAR):
            yield place.name


def once(function: Callable[Concatenate[History, P], T]) -> Callable[Concatenate[History, P], T]:
    """Make a function of a history return its first result again within `History.unchanged`.

    Several rules ask the same question in one examination. Callers must not change the result.
    """

    @wraps(function)
    def kept(history: History, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (function, args, tuple(sorted(kwargs.items())))
        return history.once(key, lambda: function(history, *args, **kwargs))

    return kept
