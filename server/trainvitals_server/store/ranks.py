"""What the other ranks of a run measured, for the rule that compares them with the lowest rank.

A round reads one more rank: its loss, its gradient norms, the settings of its optimizers and the L2
norms of its weights, at its first and its newest steps. Start at `OtherRanks.read_one`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa

from trainvitals.diagnosis.history import History
from trainvitals.wire import Frame, Layout, Scalar, Stat, Stream
from trainvitals_server.store.layouts import decode_layout
from trainvitals_server.store.models import Attempt, Source, Track
from trainvitals_server.store.track_rows import TrackShape, read_rows

RANKS_MAX = 7
"""Maximum number of ranks that are compared with the lowest one: the lowest of the others."""
SCALARS = (
    Scalar.LOSS,
    Scalar.GRADIENT_NORM,
    Scalar.GRADIENT_NORM_BEFORE_CLIPPING,
    Scalar.LEARNING_RATE,
    Scalar.WEIGHT_DECAY,
)
"""What is read of a rank; the last two for each parameter group."""
FIRST_STEPS = 64
NEWEST_STEPS = 128
LAYOUTS_MAX = 8
"""Newest layouts of a stream that are read."""
"""Steps of a rank that are read: from its first one, and up to the newest one of the run."""


class OtherRanks:
    """The other ranks of one run, read in turn."""

    def __init__(self) -> None:
        self._sources: list[tuple[int, int]] = []
        self._next = 0

    def read_one(self, connection: sa.Connection, run_pk: int, history: History) -> None:
        """Read the next rank anew into `history.ranks`; drop those of an earlier attempt."""
        sources = _other_sources(connection, run_pk)
        if sources != self._sources:
            self._sources = sources
            known = {rank for rank, _ in sources}
            for rank in history.ranks.keys() - known:
                del history.ranks[rank]
        if not sources:
            return
        self._next = (self._next + 1) % len(sources)
        rank, source_pk = sources[self._next]
        history.ranks[rank] = _history_of(connection, source_pk, history.last_step)


def _other_sources(connection: sa.Connection, run_pk: int) -> list[tuple[int, int]]:
    """Return (rank, key of the source) of the newest attempt's ranks above its lowest one."""
    wanted = (
        sa.select(Source.attempt_pk, Source.rank, Source.pk)
        .join(Attempt, Attempt.pk == Source.attempt_pk)
        .where(Source.run_pk == run_pk)
        .order_by(Attempt.started_at, Attempt.pk, Source.rank, Source.pk)
    )
    rows = connection.execute(wanted).all()
    by_rank = {row.rank: row.pk for row in rows if row.attempt_pk == rows[-1].attempt_pk}
    return list(by_rank.items())[1 : RANKS_MAX + 1]


def _is_read(scalar: str) -> bool:
    name, _, group = scalar.partition("/")
    return name in SCALARS and (not group or name in (Scalar.LEARNING_RATE, Scalar.WEIGHT_DECAY))


def _history_of(connection: sa.Connection, source_pk: int, last_step: int) -> History:
    history = History()
    newest = max(0, last_step + 1 - NEWEST_STEPS)
    spans = [(newest, last_step + 1)]
    if newest:
        spans.insert(0, (0, min(FIRST_STEPS, newest)))
    for stream, statistic in ((Stream.SCALAR, Stat.VALUE), (Stream.WEIGHT, Stat.L2)):
        wanted = (
            sa.select(Track)
            .where(Track.source_pk == source_pk, Track.stream == str(stream))
            .order_by(Track.version.desc())
            .limit(LAYOUTS_MAX)
        )
        tracks = connection.execute(wanted).all()
        for track in reversed(tracks):
            # The layout changes in the first steps, as when the duration of a step is first known.
            wanted_spans = spans if track is tracks[0] else spans[:1]
            _add_track(connection, history, track, statistic, wanted_spans)
    return history


def _add_track(
    connection: sa.Connection,
    history: History,
    track: sa.Row[Any],
    statistic: Stat,
    spans: list[tuple[int, int]],
) -> None:
    """Add the rows of one layout in the spans (first step, last step + 1)."""
    layout = decode_layout(track.layout)
    if statistic not in layout.statistics:
        return
    column = layout.statistics.index(statistic)
    places = [
        (i, place)
        for i, place in enumerate(layout.places)
        if layout.stream is Stream.WEIGHT or _is_read(place.name)
    ]
    if not places:
        return
    # Series are numbered statistic-major.
    numbers = np.array([column * track.places + i for i, _ in places], np.int64)
    shape = TrackShape(track.pk, track.places, track.statistics)
    key = (layout.stream, track.version)
    history.add(Layout(*key, (statistic,), tuple(place for _, place in places)))
    for lo, hi in spans:
        rows = read_rows(connection, shape, numbers, lo=lo, hi=hi)
        if len(rows.steps):
            history.add(Frame(*key, rows.steps, rows.times, rows.values[:, :, None]))
