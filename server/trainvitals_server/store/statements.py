"""The statements of the ingest path, built once.

SQLAlchemy needs longer to build an expression than SQLite needs to execute it. These statements are
constants with named parameters; their compiled form is cached under each dialect.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from trainvitals_server.store.models import (
    Attempt,
    BatchKey,
    DroppedRow,
    EventRow,
    LogFrame,
    PrunedKeys,
    Run,
    Source,
    Track,
)

_run, _source, _track, _attempt, _batch, _frame, _event, _dropped, _pruned = (
    cast("sa.Table", model.__table__)
    for model in (Run, Source, Track, Attempt, BatchKey, LogFrame, EventRow, DroppedRow, PrunedKeys)
)

# Rows are locked until the commit. Without the lock, two collectors would overwrite each other's
# counts. SQLite ignores the lock: it has one writer.
RUN = sa.select(_run).where(_run.c.id == sa.bindparam("id")).with_for_update()
SOURCE = sa.select(_source).where(_source.c.key == sa.bindparam("key")).with_for_update()

_newest = (
    sa.select(_attempt.c.pk)
    .where(_attempt.c.run_pk == sa.bindparam("run_pk"))
    .order_by(_attempt.c.started_at.desc(), _attempt.c.pk.desc())
    .limit(1)
)
NEWEST_ATTEMPT = _newest
"""The newest attempt of the run `run_pk`."""
_newest_key = _newest.scalar_subquery()
PRIMARY = sa.select(_newest_key, sa.func.min(_source.c.rank)).where(
    _source.c.attempt_pk == _newest_key
)
"""(newest attempt, its lowest rank) of the run `run_pk`."""

BATCH_CRC = sa.select(_batch.c.crc).where(
    _batch.c.source_pk == sa.bindparam("source_pk"), _batch.c.seq == sa.bindparam("seq")
)
PRUNED_CRCS = (
    sa.select(_pruned.c.lo, _pruned.c.crcs)
    .where(_pruned.c.source_pk == sa.bindparam("source_pk"), _pruned.c.lo <= sa.bindparam("seq"))
    .order_by(_pruned.c.lo.desc())
    .limit(1)
)
"""The checksums of the pruned batches from the one before or at `seq` on."""
TRACKS = sa.select(_track.c.pk, _track.c.stream, _track.c.version).where(
    _track.c.source_pk == sa.bindparam("source_pk")
)
LAYOUT = sa.select(_track.c.layout).where(_track.c.pk == sa.bindparam("pk"))

UPDATE_RUN = sa.update(_run).where(_run.c.pk == sa.bindparam("own_pk"))
UPDATE_SOURCE = sa.update(_source).where(_source.c.pk == sa.bindparam("own_pk"))
"""Parameters with the name of a column become the columns that are set."""
NEW_FRAMES = sa.insert(_frame)
NEW_EVENTS = sa.insert(_event)
NEW_DROPPED = sa.insert(_dropped)
MORE_ROWS = (
    sa.update(_track)
    .where(_track.c.pk == sa.bindparam("track_pk"))
    .values(
        rows=_track.c.rows + sa.bindparam("added"),
        log_rows=_track.c.log_rows + sa.bindparam("added"),
    )
)
"""Add `added` stored steps to the track `track_pk`."""


def insert_or_ignore(connection: sa.Connection, table: Any) -> Any:
    """Return `INSERT … ON CONFLICT DO NOTHING` in the connection's dialect."""
    return _insert_or_ignore(connection.dialect.name, table)


@lru_cache(maxsize=16)
def _insert_or_ignore(dialect: str, table: Any) -> Any:
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing()


@lru_cache(maxsize=2)
def new_batch_key(dialect: str) -> Any:
    """Return the insert of a batch's key; it returns no row when the key is stored already."""
    return _insert_or_ignore(dialect, _batch).returning(_batch.c.seq)
