"""Read the steps and values of one track from its sealed segments and its log.

Comes in: a track, a range of steps, the numbers of the requested series.
Goes out: `Rows`: steps ascending, one column for each series, values exactly as sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from trainvitals_server.store.blocks import unpack
from trainvitals_server.store.models import Chunk, LogFrame

GROUP_SERIES = 32
AXIS_GROUP = -1


@dataclass(frozen=True)
class TrackShape:
    """The properties of a track that are needed to read it."""

    pk: int
    places: int
    statistics: int

    @property
    def series(self) -> int:
        """Number of columns: places × statistics, numbered statistic-major."""
        return self.places * self.statistics


@dataclass(frozen=True)
class Rows:
    """Captured steps of one track. `values` is float32, shape (steps, requested series)."""

    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Rows], series: int) -> Rows:
        """Return all parts as one, steps ascending. For a repeated step, the last part is used."""
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0), np.empty((0, series), np.float32))
        steps = np.concatenate([part.steps for part in parts])
        times = np.concatenate([part.times for part in parts])
        values = np.concatenate([part.values for part in parts])
        if np.all(steps[1:] > steps[:-1]):
            return cls(steps, times, values)
        order = np.argsort(steps, kind="stable")
        last = np.append(steps[order][1:] != steps[order][:-1], True)
        order = order[last]
        return cls(steps[order], times[order], values[order])

    def between(self, lo: int, hi: int) -> Rows:
        """Return the rows with lo ≤ step < hi."""
        a, b = np.searchsorted(self.steps, (lo, hi))
        return Rows(self.steps[a:b], self.times[a:b], self.values[a:b])


def read_rows(
    connection: sa.Connection,
    shape: TrackShape,
    series: npt.NDArray[np.int64],
    *,
    lo: int = 0,
    hi: int = 2**62,
    without: Sequence[int] = (),
) -> Rows:
    """Return the rows with lo ≤ step < hi of the series with the numbers `series`.

    Sealed segments in `without` are skipped; the log is always read.
    """
    sealed = _sealed(connection, shape, series, lo, hi, frozenset(without))
    return Rows.joined([*sealed, *_logged(connection, shape, series, lo, hi)], len(series)).between(
        lo, hi
    )


def _sealed(
    connection: sa.Connection,
    shape: TrackShape,
    series: npt.NDArray[np.int64],
    lo: int,
    hi: int,
    without: frozenset[int],
) -> list[Rows]:
    groups = [AXIS_GROUP, *np.unique(series // GROUP_SERIES).tolist()]
    wanted = (
        sa.select(Chunk.group, Chunk.segment, Chunk.n, Chunk.crc, Chunk.blob)
        .where(
            Chunk.track_pk == shape.pk,
            Chunk.tier == 0,
            Chunk.group.in_(groups),
            Chunk.lo < hi,
            Chunk.hi >= lo,
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
            axis = unpack(blob, crc, dtype="<i8", shape=(2, n))
            values = np.empty((n, len(series)), np.float32)
            parts.append(Rows(axis[0], axis[1].view(np.float64), values))
            continue
        width = min(GROUP_SERIES, shape.series - group * GROUP_SERIES)
        block = unpack(blob, crc, dtype="<f4", shape=(width, n))
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


def _logged(
    connection: sa.Connection, shape: TrackShape, series: npt.NDArray[np.int64], lo: int, hi: int
) -> list[Rows]:
    wanted = (
        sa.select(LogFrame.n, LogFrame.axis, LogFrame.values)
        .where(LogFrame.track_pk == shape.pk, LogFrame.lo < hi, LogFrame.hi >= lo)
        .order_by(LogFrame.seq, LogFrame.part)
    )
    return [
        log_rows(n, axis, values, shape, series) for n, axis, values in connection.execute(wanted)
    ]


def log_rows(
    n: int,
    axis: bytes,
    values: bytes,
    shape: TrackShape,
    series: npt.NDArray[np.int64] | None = None,
) -> Rows:
    """Return one frame of the log; without `series`, return all series, statistic-major."""
    steps = np.frombuffer(axis, "<i8", n)
    times = np.frombuffer(axis, "<f8", n, offset=8 * n)
    frame = np.frombuffer(values, "<f4").reshape(n, shape.places, shape.statistics)
    if series is None:
        return Rows(steps, times, frame.transpose(0, 2, 1).reshape(n, shape.series))
    return Rows(steps, times, frame[:, series % shape.places, series // shape.places])
