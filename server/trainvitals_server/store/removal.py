"""Delete a run: hide it at once, then remove its rows in short transactions.

Comes in: a run's key. Goes out: the run's row and the rows of its sources, without their data. They
          are kept because a key must never be used for another run, and because a late batch of one
          of its processes must be recognised and refused (reason `run_deleted`).
Promise:  each transaction deletes a bounded number of rows, so an ingest waits for one of them at
          most; a removal that was interrupted continues after a restart.
Start at `hide`; `Removal.run_once` runs in the compactor's thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from trainvitals_server.store.database import Database
from trainvitals_server.store.models import (
    BatchKey,
    Chunk,
    DroppedRow,
    EventRow,
    FindingRow,
    LogFrame,
    NotificationRow,
    PrunedKeys,
    Run,
    Source,
    Track,
)

BINNED: Final = "binned"
"""State of a run that can be restored."""
HIDDEN: Final = "deleting"
"""State of a run that has rows to remove."""
REMOVED: Final = "deleted"
"""State of a run that has no rows left."""
ERASED: Final = (HIDDEN, REMOVED)
GONE: Final = (BINNED, *ERASED)
"""States of runs that are hidden from readers."""
_ROWS: Final = 200
"""Rows with values in one transaction: chunks have up to 128 KiB."""
_FRAMES: Final = 20
"""Rows of the log in one transaction: frames have up to 16 steps of all tensors."""
_SMALL_ROWS: Final = 2000


def random_id(run_pk: int) -> str:
    """Return a replacement for the id of a hidden run."""
    # Random: a user may choose any other id.
    return f"deleted/{run_pk}/{secrets.token_hex(16)}"


def hide(connection: sa.Connection, run_pk: int, *still: sa.ColumnElement[bool]) -> bool:
    """Hide a run from every reader; a new run can use its id.

    The run is hidden only if the conditions `still` hold for its row at that time: another
    transaction may have changed the row since the run was chosen. Return whether the run is hidden
    by this call.
    """
    nothing = msgspec.msgpack.encode({})
    connection.execute(sa.select(Run.pk).where(Run.pk == run_pk).with_for_update())
    done = connection.execute(
        sa.update(Run)
        .where(Run.pk == run_pk, Run.state.not_in(ERASED), *still)
        .values(
            id=random_id(run_pk),
            state=HIDDEN,
            notes=None,
            archived=False,
            edited="",
            binned_id=None,
            binned_state=None,
            name="",
            host="",
            loss=None,
            search="",
            error=b"",
            headline=None,
            about=nothing,
            scalars=nothing,
            not_watched=nothing,
            blind=nothing,
            tags=msgspec.msgpack.encode(()),
            sparkline=msgspec.msgpack.encode((1, [])),
            rounded=Run.revision,
            changes=Run.changes + 1,
        )
    )
    return done.rowcount > 0


class Removal:
    """Removes the rows of hidden runs."""

    def __init__(self, database: Database, is_stopping: Callable[[], bool] = lambda: False) -> None:
        self._database = database
        self._is_stopping = is_stopping

    def run_once(self) -> int:
        """Remove the rows of all hidden runs; return the number of runs without rows since."""
        with self._database.read() as connection:
            hidden = list(connection.scalars(sa.select(Run.pk).where(Run.state == HIDDEN)))
        return sum(self._remove(run_pk) for run_pk in hidden)

    def _remove(self, run_pk: int) -> bool:
        with self._database.claim(run_pk) as mine:
            if not mine:  # a round or another collector holds it; the next turn tries again
                return False
            for step in (_chunks, _frames, _tracks, _keys, _rest):
                while not self._is_stopping() and self._database.write(partial(step, run_pk)):
                    pass
            if self._is_stopping():
                return False
            self._database.write(partial(_finish, run_pk))
            return True


def _sources(run_pk: int) -> sa.Select[int]:
    return sa.select(Source.pk).where(Source.run_pk == run_pk)


def _tracks_of(run_pk: int) -> sa.Select[int]:
    return sa.select(Track.pk).where(Track.source_pk.in_(_sources(run_pk)))


def _delete(connection: sa.Connection, keys: tuple[Any, ...], owned: Any, limit: int) -> int:
    """Delete at most `limit` rows that `owned` selects; return their number."""
    found = connection.execute(sa.select(*keys).where(owned).limit(limit)).all()
    if not found:
        return 0
    these = (
        keys[0].in_([row[0] for row in found])
        if len(keys) == 1
        else sa.tuple_(*keys).in_([tuple(row) for row in found])
    )
    connection.execute(sa.delete(keys[0].class_).where(these))
    return len(found)


def _chunks(run_pk: int, connection: sa.Connection) -> int:
    keys = (Chunk.track_pk, Chunk.tier, Chunk.group, Chunk.segment)
    return _delete(connection, keys, Chunk.track_pk.in_(_tracks_of(run_pk)), _ROWS)


def _frames(run_pk: int, connection: sa.Connection) -> int:
    return _delete(connection, (LogFrame.pk,), LogFrame.track_pk.in_(_tracks_of(run_pk)), _FRAMES)


def _tracks(run_pk: int, connection: sa.Connection) -> int:
    owned = sa.and_(
        Track.source_pk.in_(_sources(run_pk)),
        # A collector that was sealing may have written a chunk since.
        ~sa.exists().where(Chunk.track_pk == Track.pk),
        ~sa.exists().where(LogFrame.track_pk == Track.pk),
    )
    return _delete(connection, (Track.pk,), owned, _SMALL_ROWS)


def _keys(run_pk: int, connection: sa.Connection) -> int:
    keys = (BatchKey.source_pk, BatchKey.seq)
    pruned = (PrunedKeys.source_pk, PrunedKeys.lo)
    owned = PrunedKeys.source_pk.in_(_sources(run_pk))
    return _delete(
        connection, keys, BatchKey.source_pk.in_(_sources(run_pk)), _SMALL_ROWS
    ) + _delete(connection, pruned, owned, _ROWS)


def _rest(run_pk: int, connection: sa.Connection) -> int:
    return sum(
        _delete(connection, (table.pk,), table.run_pk == run_pk, _SMALL_ROWS)
        for table in (FindingRow, EventRow, DroppedRow, NotificationRow)
    )


def _finish(run_pk: int, connection: sa.Connection) -> None:
    """Mark the run as removed, unless a track is left; the next turn then removes it."""
    if connection.scalar(_tracks_of(run_pk).limit(1)) is not None:
        return
    sources = sa.update(Source).where(Source.run_pk == run_pk)
    connection.execute(sources.values(host="", pid=0, sealed_to=Source.batches))
    connection.execute(sa.update(Run).where(Run.pk == run_pk).values(state=REMOVED))
