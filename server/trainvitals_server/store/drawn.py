"""Which tracks make up a run's course as it is drawn.

Of each attempt one process speaks: the one of lowest rank. Attempts follow each other by the
time they started; one that resumes from an earlier step takes the later steps of those before
it back. Nothing is deleted: this only says what to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from trainvitals.wire import Layout, Stream
from trainvitals_server.store.ingest import decode_layout
from trainvitals_server.store.models import Attempt, Chunk, LogFrame, Source, Track
from trainvitals_server.store.rows import Shape

EVERY_STEP = 2**62


@dataclass(frozen=True)
class Drawn:
    """One track and up to which step it counts."""

    shape: Shape
    layout: Layout
    until: int
    """Exclusive."""
    rows: int
    """Stored in all."""
    log_rows: int


def drawn_tracks(
    connection: sa.Connection, run_pk: int, stream: Stream | None = None
) -> list[Drawn]:
    """Return the tracks of the run's course, oldest first, within each stream."""
    sources = _speakers(connection, run_pk)
    if not sources:
        return []
    wanted = sa.select(Track).where(Track.source_pk.in_(sources))
    if stream is not None:
        wanted = wanted.where(Track.stream == str(stream))
    position = {pk: i for i, pk in enumerate(sources)}
    tracks = sorted(
        connection.execute(wanted).all(), key=lambda t: (t.stream, position[t.source_pk], t.version)
    )
    first_steps = _first_steps(connection, [track.pk for track in tracks])
    drawn: list[Drawn] = []
    until: dict[str, int] = {}
    for track in reversed(tracks):
        first = first_steps.get(track.pk)
        limit = until.get(track.stream, EVERY_STEP)
        shape = Shape(track.pk, track.places, track.statistics)
        layout = decode_layout(track.layout)
        drawn.append(Drawn(shape, layout, limit, track.rows, track.log_rows))
        if first is not None:
            until[track.stream] = min(limit, first)
    return drawn[::-1]


def _speakers(connection: sa.Connection, run_pk: int) -> list[int]:
    """Return the keys of the sources that speak for the run, one an attempt, oldest first."""
    order = (Attempt.started_at, Attempt.pk, Source.rank, Source.pk)
    wanted = (
        sa.select(Source.attempt_pk, Source.pk)
        .join(Attempt, Attempt.pk == Source.attempt_pk)
        .where(Source.run_pk == run_pk)
        .order_by(*order)
    )
    speakers: dict[int, int] = {}
    for attempt_pk, source_pk in connection.execute(wanted):
        speakers.setdefault(attempt_pk, source_pk)
    return list(speakers.values())


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
