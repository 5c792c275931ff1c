"""Which tracks, and which steps of each, make up the timeline of a run.

For each attempt, the timeline takes the source with the lowest rank (the primary source). Attempts
are ordered by start time; an attempt that resumes from an earlier step replaces the later steps of
the attempts before it. Nothing is deleted: this module only selects what is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from trainvitals.wire import Layout, Stream
from trainvitals_server.store.layouts import decode_layout
from trainvitals_server.store.models import Attempt, Chunk, LogFrame, Source, Track
from trainvitals_server.store.track_rows import TrackShape

EVERY_STEP = 2**62


@dataclass(frozen=True)
class TimelineTrack:
    """One track and its upper step limit in the timeline."""

    shape: TrackShape
    layout: Layout
    until: int
    """Exclusive."""
    rows: int
    """Number of rows stored."""
    log_rows: int
    thinned_rows: int
    """Number of rows that are stored as spans only."""


def timeline(
    connection: sa.Connection, run_pk: int, stream: Stream | None = None
) -> list[TimelineTrack]:
    """Return the tracks of the run's timeline, oldest first, within each stream."""
    sources = _primary_sources(connection, run_pk)
    if not sources:
        return []
    wanted = sa.select(Track).where(Track.source_pk.in_(sources))
    if stream is not None:
        wanted = wanted.where(Track.stream == str(stream))
    position = {pk: i for i, pk in enumerate(sources)}
    rows = sorted(
        connection.execute(wanted).all(), key=lambda t: (t.stream, position[t.source_pk], t.version)
    )
    first_steps = _first_steps(connection, [row.pk for row in rows])
    tracks: list[TimelineTrack] = []
    until: dict[str, int] = {}
    for row in reversed(rows):
        first = first_steps.get(row.pk)
        limit = until.get(row.stream, EVERY_STEP)
        shape = TrackShape(row.pk, row.places, row.statistics)
        layout = decode_layout(row.layout)
        tracks.append(TimelineTrack(shape, layout, limit, row.rows, row.log_rows, row.thinned_rows))
        if first is not None:
            until[row.stream] = min(limit, first)
    return tracks[::-1]


def _primary_sources(connection: sa.Connection, run_pk: int) -> list[int]:
    """Return the keys of the primary sources, one for each attempt, oldest first."""
    order = (Attempt.started_at, Attempt.pk, Source.rank, Source.pk)
    wanted = (
        sa.select(Source.attempt_pk, Source.pk)
        .join(Attempt, Attempt.pk == Source.attempt_pk)
        .where(Source.run_pk == run_pk)
        .order_by(*order)
    )
    primary: dict[int, int] = {}
    for attempt_pk, source_pk in connection.execute(wanted):
        primary.setdefault(attempt_pk, source_pk)
    return list(primary.values())


def _first_steps(connection: sa.Connection, tracks: list[int]) -> dict[int, int]:
    """Return the first stored step of each track that has any."""
    first: dict[int, int] = {}
    for wanted in (
        sa.select(Chunk.track_pk, sa.func.min(Chunk.lo))
        .where(Chunk.track_pk.in_(tracks), Chunk.tier == 0, Chunk.group == -1)
        .group_by(Chunk.track_pk),
        sa.select(LogFrame.track_pk, sa.func.min(LogFrame.lo))
        .where(LogFrame.track_pk.in_(tracks))
        .group_by(LogFrame.track_pk),
    ):
        for track_pk, lo in connection.execute(wanted):
            first[track_pk] = min(lo, first.get(track_pk, lo))
    return first
