"""Histories for the rules, kept in memory between rounds and extended with new rows only.

A history that cannot be extended (after a resume, a late batch or a restart of the collector) is
rebuilt from the first steps, some segments of the middle, and the newest steps.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
import sqlalchemy as sa

from trainvitals.diagnosis.history import NONFINITE_SCALARS, History
from trainvitals.wire import Frame, NotWatched, Stat, Stream
from trainvitals.wire.codec import read_frame
from trainvitals_server.store import runs
from trainvitals_server.store.chunks import AXIS_ALONE, AXIS_GROUP
from trainvitals_server.store.models import Chunk, LogFrame, Run
from trainvitals_server.store.ranks import OtherRanks
from trainvitals_server.store.series import curves
from trainvitals_server.store.timeline import TimelineTrack, timeline
from trainvitals_server.store.track_rows import read_rows

BYTES_MAX = 256 * 2**20
"""Bytes of all histories that are kept. A run for which there is no room is read in each round."""
IDLE_S = 60.0
"""A history that no round has used for so long makes room for others."""
SEGMENTS_MAX = 24
"""Sealed segments that a rebuilt history reads: half are the newest, half spread evenly before."""


SPANS = 4096
"""Spans of steps in which a rebuilt history looks for non-finite values."""
NONFINITE_SPANS_MAX = 8
"""Spans whose rows are read for them: the first."""


@dataclass
class _Kept:
    history: History
    identity: tuple[tuple[int, int], ...]
    """(track, until) of each track; if it changes, the timeline has changed."""
    rows: dict[int, int] = field(default_factory=dict)
    """Rows of each track that are in the history or were deliberately left out."""
    log_pk: int = 0
    """The newest row of the log that is in the history."""
    events: int = 0
    ranks: OtherRanks = field(default_factory=OtherRanks)
    used_at: float = field(default_factory=monotonic)


class Histories:
    """The histories of the diagnosed runs, at most `bytes_max` bytes."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, connection: sa.Connection, run_pk: int) -> History:
        """Return the run's history up to what is committed. Do not change it."""
        with self._lock:
            tracks = timeline(connection, run_pk)
            identity = tuple((d.shape.pk, d.until) for d in tracks)
            kept = self._kept.get(run_pk)
            if kept is None or kept.identity != identity or not _continue(connection, kept, tracks):
                kept = _rebuild(connection, run_pk, tracks, identity)
            _add_metadata(connection, run_pk, kept)
            kept.ranks.read_one(connection, run_pk, kept.history)
            self._keep(run_pk, kept)
            return kept.history

    def _keep(self, run_pk: int, kept: _Kept) -> None:
        """Keep a history if there is room for it.

        The rounds read the runs in turns: if the history that was not used for the longest time
        made room for the next run, none would be found again.
        """
        self._kept.pop(run_pk, None)
        kept.used_at = now = monotonic()
        room = self._bytes_max - kept.history.nbytes
        total = sum(other.history.nbytes for other in self._kept.values())
        for pk, other in list(self._kept.items()):
            if total <= room or now - other.used_at < IDLE_S:
                break
            total -= other.history.nbytes
            del self._kept[pk]
        if total <= room:
            self._kept[run_pk] = kept


def _add_metadata(connection: sa.Connection, run_pk: int, kept: _Kept) -> None:
    """Add everything except frames: facts, events, what is not watched, dropped records, the
    state."""
    row = connection.execute(
        sa.select(Run.about, Run.not_watched, Run.revision, Run.state).where(Run.pk == run_pk)
    ).one_or_none()
    if row is None:
        return
    if (start := runs.start_record(row.about)) is not None:
        kept.history.add(start)
    kept.history.add(NotWatched(runs.not_watched(connection, run_pk)))
    kept.history.events[:] = runs.events(connection, run_pk)
    kept.history.dropped[:] = runs.dropped(connection, run_pk)
    kept.history.is_lost = row.state == "lost"


def _continue(connection: sa.Connection, kept: _Kept, tracks: list[TimelineTrack]) -> bool:
    """Add the new rows of the log; return False when the history then still lacks rows."""
    by_track = {d.shape.pk: d for d in tracks}
    if all(kept.rows.get(pk, 0) == d.rows for pk, d in by_track.items()):
        return True
    wanted = (
        sa.select(LogFrame.pk, LogFrame.track_pk, LogFrame.n, LogFrame.header, LogFrame.values)
        .where(LogFrame.track_pk.in_(by_track), LogFrame.pk > kept.log_pk)
        .order_by(LogFrame.pk)
    )
    frames: list[Frame] = []
    for pk, track_pk, n, header, values in connection.execute(wanted):
        frames.append(read_frame(header, values))
        kept.rows[track_pk] = kept.rows.get(track_pk, 0) + n
        kept.log_pk = pk
    if any(kept.rows.get(pk, 0) != d.rows for pk, d in by_track.items()):
        return False  # some were sealed before this read, or committed out of order
    for frame in frames:
        steps = kept.history.steps(frame.stream)
        if len(steps) and frame.steps[0] <= steps[-1]:
            return False  # a late batch: rows must be added in step order
        kept.history.add(frame)
    return True


def _rebuild(
    connection: sa.Connection,
    run_pk: int,
    tracks: list[TimelineTrack],
    identity: tuple[tuple[int, int], ...],
) -> _Kept:
    kept = _Kept(History(), identity)
    wanted = _nonfinite_spans(connection, run_pk, tracks)
    keys = [track.shape.pk for track in tracks]
    newest = sa.select(sa.func.max(LogFrame.pk)).where(LogFrame.track_pk.in_(keys))
    kept.log_pk = connection.scalar(newest) or 0
    for track in tracks:
        kept.history.add(track.layout)
        left_out = _left_out(connection, track.shape.pk, wanted)
        rows = read_rows(connection, track.shape, hi=track.until, without=left_out)
        if len(rows.steps):
            key = (track.layout.stream, track.layout.version)
            kept.history.add(Frame(*key, rows.steps, rows.times, rows.values))
        kept.rows[track.shape.pk] = track.rows
    return kept


def _nonfinite_spans(
    connection: sa.Connection, run_pk: int, tracks: list[TimelineTrack]
) -> list[tuple[int, int]]:
    """Return (first step, last step) of the first spans in which a loss or gradient was not
    finite."""
    scalars = [track for track in tracks if track.layout.stream is Stream.SCALAR]
    known = {place.name for track in scalars for place in track.layout.places}
    names = [name for name in NONFINITE_SCALARS if name in known]
    if not names:
        return []
    until = max(track.until for track in scalars)
    spans = curves(
        connection, run_pk, Stream.SCALAR, Stat.VALUE, names, lo=0, hi=until, points=SPANS
    ).spans
    broke = (np.nan_to_num(spans.maximum) > 0).any(axis=1)
    found = zip(spans.first[broke].tolist(), spans.last[broke].tolist(), strict=True)
    return list(found)[:NONFINITE_SPANS_MAX]


def _left_out(
    connection: sa.Connection, track_pk: int, wanted_spans: list[tuple[int, int]]
) -> list[int]:
    """Return the segments in the middle of a long run that a rebuilt history leaves out.

    Segments that overlap one of `wanted_spans` are read: an event of one step must not be lost.
    """
    wanted = (
        sa.select(Chunk.segment, Chunk.lo, Chunk.hi)
        .where(
            Chunk.track_pk == track_pk,
            Chunk.tier == 0,
            Chunk.group == AXIS_GROUP,
            Chunk.codec != AXIS_ALONE,
        )
        .order_by(Chunk.lo)
    )
    rows = connection.execute(wanted).all()
    segments = [row.segment for row in rows]
    if len(segments) <= SEGMENTS_MAX:
        return []
    half = SEGMENTS_MAX // 2
    middle = np.linspace(0, len(segments) - half - 1, half).round().astype(int)
    read = {segments[i] for i in middle} | set(segments[-half:])
    for first, last in wanted_spans:
        read |= {row.segment for row in rows if row.lo <= last and row.hi >= first}
    return [segment for segment in segments if segment not in read]
