"""The newest value of every series of a run, from memory and the newest rows of the log.

Comes in: the tracks of a run. Goes out: `StreamLatest` for each stream.
Promise:  a request reads the rows that arrived since the previous one, and no chunk if these are
          still in the log. The first request, and one after rows were sealed unseen, also reads the
          newest sealed segment: a series without a value in the last 256 steps or more is absent.
Start at `NewestValues.of`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from cachetools import LRUCache

from trainvitals.wire import Frame, Layout
from trainvitals.wire.codec import read_frame
from trainvitals_server.store.chunks import AXIS_GROUP
from trainvitals_server.store.models import Chunk, LogFrame
from trainvitals_server.store.timeline import TimelineTrack
from trainvitals_server.store.track_rows import Rows, sealed_rows

SERIES_KEPT: Final = 1_000_000
"""Total number of series in memory; 12 bytes for each."""


@dataclass(frozen=True)
class StreamLatest:
    """The newest values of one stream; arrays have the shape (places, statistics)."""

    layout: Layout
    values: npt.NDArray[np.float32]
    """The newest value that is not NaN; NaN: there is none."""
    steps: npt.NDArray[np.int64]
    """The step of each value; −1: there is none."""


@dataclass(frozen=True)
class _Known:
    rows: int
    """Number of rows of the track that the values include."""
    log_pk: int
    """The newest log row among them."""
    latest: StreamLatest


class NewestValues:
    """The newest values of the most recently requested tracks. Safe for concurrent use."""

    def __init__(self, series_max: int = SERIES_KEPT) -> None:
        self._kept: LRUCache[tuple[int, int], _Known] = LRUCache(
            series_max, lambda known: max(1, known.latest.values.size)
        )
        self._lock = threading.Lock()

    def of(self, connection: sa.Connection, run_pk: int, track: TimelineTrack) -> StreamLatest:
        """Return the newest values of a track."""
        # SQLite uses the key of a deleted track again, but never that of a run.
        key = run_pk, track.shape.pk
        with self._lock:
            known = self._kept.get(key)
        if known is None or known.rows != track.rows:
            known = _extended(connection, track, known) or _read(connection, track)
            with self._lock:
                if known.latest.values.size <= self._kept.maxsize:
                    self._kept[key] = known
        return known.latest


def newest_tracks(tracks: Sequence[TimelineTrack]) -> list[TimelineTrack]:
    """Return the newest track with rows of each stream; without rows, the newest."""
    found: dict[str, TimelineTrack] = {}
    for track in tracks:
        if track.rows or str(track.layout.stream) not in found:
            found[str(track.layout.stream)] = track
    return list(found.values())


def _extended(
    connection: sa.Connection, track: TimelineTrack, known: _Known | None
) -> _Known | None:
    """Return `known` with the log rows that are newer; None if that does not give all rows."""
    if known is None:
        return None
    frames, log_pk = _logged(connection, track, known.log_pk)
    if known.rows + sum(len(frame.steps) for frame in frames) != track.rows:
        return None  # some were sealed meanwhile, or committed out of order
    return _Known(track.rows, log_pk, _merged(known.latest, frames))


def _read(connection: sa.Connection, track: TimelineTrack) -> _Known:
    """Return the newest values of the newest sealed segment and the log."""
    shape = track.shape
    empty = StreamLatest(
        track.layout,
        np.full((shape.places, shape.statistics), np.nan, np.float32),
        np.full((shape.places, shape.statistics), -1, np.int64),
    )
    newest = connection.scalar(
        sa.select(sa.func.max(Chunk.segment)).where(
            Chunk.track_pk == shape.pk, Chunk.tier == 0, Chunk.group == AXIS_GROUP
        )
    )
    parts: list[Rows | Frame] = []
    if newest is not None:
        every = np.arange(shape.series)
        span = (newest, newest + 1)
        sealed = sealed_rows(connection, shape, every, 0, 2**62, segments=span)
        parts += [Rows(part.steps, part.times, shape.block(part.values)) for part in sealed]
    frames, log_pk = _logged(connection, track, -1)
    return _Known(track.rows, log_pk, _merged(empty, [*parts, *frames]))


def _logged(connection: sa.Connection, track: TimelineTrack, after: int) -> tuple[list[Frame], int]:
    """Return the frames of log rows with a larger key than `after`, and the largest key."""
    wanted = (
        sa.select(LogFrame.pk, LogFrame.header, LogFrame.values)
        .where(LogFrame.track_pk == track.shape.pk, LogFrame.pk > after)
        .order_by(LogFrame.pk)
    )
    rows = connection.execute(wanted).all()
    return [read_frame(row.header, row.values) for row in rows], rows[-1].pk if rows else after


def _merged(latest: StreamLatest, parts: Sequence[Rows | Frame]) -> StreamLatest:
    """Return the newest values of `latest` and of all parts, which may be in any order."""
    values, steps = latest.values.copy(), latest.steps.copy()
    for part in parts:
        measured = ~np.isnan(part.values)
        row = len(part.steps) - 1 - np.argmax(measured[::-1], axis=0)
        at = np.where(measured.any(axis=0), part.steps[row], -1)
        newer = at >= np.maximum(steps, 0)
        newest = np.take_along_axis(part.values, row[None], axis=0)[0]
        values[newer], steps[newer] = newest[newer], at[newer]
    return StreamLatest(latest.layout, values, steps)
