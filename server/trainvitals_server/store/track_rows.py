"""Read the steps and values of one track from its sealed segments and its log.

Comes in: a track, a range of steps, the numbers of the requested series.
Goes out: `Rows`: steps ascending, values exactly as sent. All series of a track have the shape of a
          frame (steps × places × statistics), requested series have one column each.
Start at `read_rows`. The log holds frames as received; `trainvitals.wire.codec.read_frame` is the
only function that reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from trainvitals.wire import Frame
from trainvitals.wire.codec import read_frame
from trainvitals_server.store.chunks import (
    AXIS_ALONE,
    AXIS_GROUP,
    GROUP_SERIES,
    rows_axis,
    rows_values,
    width,
)
from trainvitals_server.store.models import Chunk, LogFrame


@dataclass(frozen=True)
class TrackShape:
    """The properties of a track that are needed to read it."""

    pk: int
    places: int
    statistics: int

    @property
    def series(self) -> int:
        """Number of series: places × statistics, numbered statistic-major."""
        return self.places * self.statistics

    def block(self, columns: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return steps × series as a view: steps × places × statistics."""
        return columns.reshape(len(columns), self.statistics, self.places).transpose(0, 2, 1)


@dataclass(frozen=True)
class Rows:
    """Captured steps of one track.

    `values` is float32, shape (steps, requested series) or (steps, places, statistics).
    """

    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Rows | Frame], width: tuple[int, ...]) -> Rows:
        """Return all parts as one, steps ascending. For a repeated step, the last part is used.

        `width` is the shape of a part's values without the steps.
        """
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0), np.empty((0, *width), np.float32))
        steps = np.concatenate([part.steps for part in parts])
        times = np.concatenate([part.times for part in parts])
        values = np.concatenate([part.values for part in parts])
        order = step_order(steps)
        return cls(steps[order], times[order], values[order])

    def between(self, lo: int, hi: int) -> Rows:
        """Return the rows with lo ≤ step < hi."""
        a, b = np.searchsorted(self.steps, (lo, hi))
        return Rows(self.steps[a:b], self.times[a:b], self.values[a:b])


def step_order(steps: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.intp]:
    """Return the index that orders rows by step and takes the last row of a repeated step."""
    if np.all(steps[1:] > steps[:-1]):
        return slice(None)  # an index array would copy the rows
    order = np.argsort(steps, kind="stable")
    ordered = steps[order]
    last: npt.NDArray[np.intp] = order[np.append(ordered[1:] != ordered[:-1], True)]
    return last


def read_rows(
    connection: sa.Connection,
    shape: TrackShape,
    series: npt.NDArray[np.int64] | None = None,
    *,
    lo: int = 0,
    hi: int = 2**62,
    without: Sequence[int] = (),
) -> Rows:
    """Return the rows with lo ≤ step < hi of the series with the numbers `series`.

    Without `series`, return all as steps × places × statistics. Sealed segments in `without` are
    skipped; the log is always read.
    """
    numbers = np.arange(shape.series) if series is None else series
    sealed = sealed_rows(connection, shape, numbers, lo, hi, without=without)
    logged: Iterable[Rows | Frame] = logged_frames(connection, shape.pk, lo, hi)
    wide: tuple[int, ...] = (len(numbers),)
    if series is None:
        sealed = [Rows(part.steps, part.times, shape.block(part.values)) for part in sealed]
        wide = (shape.places, shape.statistics)
    else:
        logged = logged_rows(connection, shape, numbers, lo, hi)
    return Rows.joined([*sealed, *logged], wide).between(lo, hi)


def sealed_rows(
    connection: sa.Connection,
    shape: TrackShape,
    series: npt.NDArray[np.int64],
    lo: int,
    hi: int,
    *,
    segments: tuple[int, int] = (0, 2**62),
    without: Sequence[int] = (),
) -> list[Rows]:
    """Return the rows of each sealed segment that has steps with lo ≤ step < hi.

    Only segments with segments[0] ≤ number < segments[1] are read, and none of `without`. Segments
    that were thinned have no rows.
    """
    groups = [AXIS_GROUP, *np.unique(series // GROUP_SERIES).tolist()]
    wanted = (
        sa.select(Chunk.group, Chunk.segment, Chunk.n, Chunk.crc, Chunk.blob)
        .where(
            Chunk.track_pk == shape.pk,
            Chunk.tier == 0,
            Chunk.codec != AXIS_ALONE,
            Chunk.group.in_(groups),
            Chunk.lo < hi,
            Chunk.hi >= lo,
            Chunk.segment >= segments[0],
            Chunk.segment < segments[1],
        )
        .order_by(Chunk.segment, Chunk.group)
    )
    if without:
        # Select the remaining segments instead of excluding the others: the remaining ones are
        # few, and a statement has a limited number of parameters.
        left = [
            segment for segment in _segments(connection, shape.pk, lo, hi) if segment not in without
        ]
        if not left:
            return []
        wanted = wanted.where(Chunk.segment.in_(left))
    parts: list[Rows] = []
    for group, _, n, crc, blob in connection.execute(wanted):
        if group == AXIS_GROUP:
            values = np.empty((n, len(series)), np.float32)
            parts.append(Rows(*rows_axis(blob, crc, n), values))
            continue
        block = rows_values(blob, crc, n, width(shape.series, group))
        mine = np.flatnonzero(series // GROUP_SERIES == group)
        parts[-1].values[:, mine] = block[series[mine] % GROUP_SERIES].T
    return parts


def _segments(connection: sa.Connection, track_pk: int, lo: int, hi: int) -> list[int]:
    wanted = sa.select(Chunk.segment).where(
        Chunk.track_pk == track_pk,
        Chunk.tier == 0,
        Chunk.group == AXIS_GROUP,
        Chunk.lo < hi,
        Chunk.hi >= lo,
    )
    return list(connection.scalars(wanted))


def logged_rows(
    connection: sa.Connection, shape: TrackShape, series: npt.NDArray[np.int64], lo: int, hi: int
) -> Iterator[Rows]:
    """Yield the rows of some series from each frame of the log that has steps in the range."""
    place, statistic = series % shape.places, series // shape.places
    for f in logged_frames(connection, shape.pk, lo, hi):
        yield Rows(f.steps, f.times, f.values[:, place, statistic])


def logged_frames(connection: sa.Connection, track_pk: int, lo: int, hi: int) -> Iterator[Frame]:
    """Yield the frames one by one: a reader of few series must not keep the values of all series in
    memory."""
    wanted = (
        sa.select(LogFrame.header, LogFrame.values)
        .where(LogFrame.track_pk == track_pk, LogFrame.lo < hi, LogFrame.hi >= lo)
        .order_by(LogFrame.seq, LogFrame.part)
    )
    for header, values in connection.execute(wanted):
        yield read_frame(header, values)
