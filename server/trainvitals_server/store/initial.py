"""The state of a run before its training, from its first stored steps."""

from __future__ import annotations

import sqlalchemy as sa

from trainvitals.api.schema import Checkup
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial_state import FIRST_STEP_MAX, initial_state
from trainvitals.wire import Frame
from trainvitals_server.store import runs
from trainvitals_server.store.models import Run
from trainvitals_server.store.timeline import timeline
from trainvitals_server.store.track_rows import read_rows


def initial(connection: sa.Connection, run_pk: int) -> Checkup:
    """Return what the first four steps of a run show; only these steps are read."""
    history = History()
    about = connection.scalar(sa.select(Run.about).where(Run.pk == run_pk))
    if about is not None and (start := runs.start_record(about)) is not None:
        history.add(start)
    for track in timeline(connection, run_pk):
        rows = read_rows(connection, track.shape, hi=min(track.until, FIRST_STEP_MAX + 1))
        if len(rows.steps) == 0:
            continue
        history.add(track.layout)
        key = (track.layout.stream, track.layout.version)
        history.add(Frame(*key, rows.steps, rows.times, rows.values))
    history.events[:] = runs.events(connection, run_pk)
    return initial_state(history)
