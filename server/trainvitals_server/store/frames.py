"""Read the stored values of a stream as frames, bit for bit, a bounded number at a time.

Comes in: a run, a stream, a first step. Goes out: a Layout and a Frame, or nothing.
Rows follow the run's timeline, as the curves do: the lowest rank's of the newest attempt.
"""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa

from trainvitals.wire import Frame, Layout, Stream
from trainvitals_server.store.timeline import TimelineTrack, timeline
from trainvitals_server.store.track_rows import read_rows

VALUES_MAX = 2**20
"""Values in one frame, unless a single step has more."""


def frames(
    connection: sa.Connection, run_pk: int, stream: Stream, from_step: int
) -> tuple[Layout, Frame] | None:
    """Return the first rows from `from_step` on, all of one layout; None without rows."""
    for track in timeline(connection, run_pk, stream):
        if track.until > from_step:
            found = _rows(connection, track, from_step)
            if found is not None:
                return track.layout, found
    return None


def _rows(connection: sa.Connection, track: TimelineTrack, from_step: int) -> Frame | None:
    nothing = np.empty(0, np.int64)
    steps = read_rows(connection, track.shape, nothing, lo=from_step, hi=track.until).steps
    if not len(steps):
        return None
    last = min(len(steps), max(1, VALUES_MAX // max(1, track.shape.series))) - 1
    rows = read_rows(connection, track.shape, lo=from_step, hi=int(steps[last]) + 1)
    return Frame(track.layout.stream, track.layout.version, rows.steps, rows.times, rows.values)
