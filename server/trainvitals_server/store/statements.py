"""The statements of the ingest path, built once.

SQLAlchemy needs longer to build an expression than SQLite needs to execute it: these statements are
constants with named parameters. It also needs ten times as long to execute a statement as the
driver of SQLite (23 µs and 2.5 µs): `Statement` compiles once for each database and calls the
driver.
"""

from __future__ import annotations

import contextlib
import re
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from trainvitals_server.store.models import (
    Attempt,
    BatchKey,
    Chunk,
    DroppedRow,
    EventRow,
    LogFrame,
    PrunedKeys,
    Run,
    Source,
    Track,
)

_run, _source, _track, _attempt, _batch, _frame, _event, _dropped, _pruned, _chunk = (
    cast("sa.Table", model.__table__)
    for model in (
        Run,
        Source,
        Track,
        Attempt,
        BatchKey,
        LogFrame,
        EventRow,
        DroppedRow,
        PrunedKeys,
        Chunk,
    )
)

ROWS_OF_AN_INSERT: Final = 16
"""Maximum number of rows that one statement inserts: its text is kept for each number."""
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
_SQLITE: Final = sqlite.dialect(paramstyle="named")
Values = Mapping[str, Any]


class Statement:
    """A statement with named parameters.

    Rows have the selected columns as attributes. The values are those of the driver: with SQLite,
    booleans are 0 and 1.
    """

    def __init__(self, clause: Any) -> None:
        self._clause = clause
        self._compiled: dict[tuple[str, tuple[str, ...]], tuple[str, Values]] = {}
        self._several: dict[tuple[tuple[str, ...], int], str] = {}
        names = [column.key for column in getattr(clause, "exported_columns", ())]
        row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc] # names at run time
        self._row = row

    def sent(self, connection: sa.Connection, values: Values) -> Any:
        """Execute it, and return the cursor of the driver."""
        return execute(connection, *self._bound(connection, values))

    def made(self, row: Sequence[Any]) -> Any:
        """Return a row of the driver with the columns as attributes."""
        return self._row._make(row)

    def one(self, connection: sa.Connection, values: Values) -> Any:
        """Return the first row, or None."""
        sql, bound = self._bound(connection, values)
        with _sqlalchemy_errors(connection, sql):
            row = _driver(connection).execute(sql, bound).fetchone()
        return None if row is None else self.made(row)

    def all(self, connection: sa.Connection, values: Values) -> Sequence[Any]:
        """Return all rows."""
        sql, bound = self._bound(connection, values)
        with _sqlalchemy_errors(connection, sql):
            return [self.made(row) for row in _driver(connection).execute(sql, bound)]

    def run(self, connection: sa.Connection, *rows: Values) -> None:
        """Execute it once for each of `rows`, at least one, which have the same keys."""
        if len(rows) == 1:
            execute(connection, *self._bound(connection, rows[0]))
        elif connection.dialect.name == "postgresql" and isinstance(self._clause, sa.Insert):
            for at in range(0, len(rows), ROWS_OF_AN_INSERT):
                several = rows[at : at + ROWS_OF_AN_INSERT]
                execute(connection, *self._insert_of(connection, several))
        else:
            sql, constants = self._text(connection, tuple(rows[0]))
            execute_many(connection, sql, [{**constants, **values} for values in rows])

    def _insert_of(self, connection: sa.Connection, rows: Sequence[Values]) -> tuple[str, Values]:
        """Return (SQL, all its parameters) of one INSERT of all rows, for psycopg."""
        names = tuple(rows[0])
        text, constants = self._text(connection, names)
        if (sql := self._several.get((names, len(rows)))) is None:
            start, values = text.split(" VALUES ", 1)
            row_values = [_PARAMETER.sub(rf"%(\1_{i})s", values) for i in range(len(rows))]
            sql = self._several[names, len(rows)] = f"{start} VALUES {', '.join(row_values)}"
        numbered = enumerate({**constants, **row} for row in rows)
        return sql, {f"{name}_{i}": value for i, row in numbered for name, value in row.items()}

    def _bound(self, connection: sa.Connection, values: Values) -> tuple[str, Values]:
        """Return (SQL, all its parameters)."""
        sql, constants = self._text(connection, tuple(values))
        return sql, {**constants, **values} if constants else values

    def _text(self, connection: sa.Connection, names: tuple[str, ...]) -> tuple[str, Values]:
        """Return (SQL, constants) of the statement with parameters of these names."""
        key = connection.dialect.name, names
        if (known := self._compiled.get(key)) is None:
            # The names of the parameters decide which columns an INSERT or UPDATE sets.
            dialect = _SQLITE if key[0] == "sqlite" else connection.dialect
            made = self._clause.compile(dialect=dialect, column_keys=list(names))
            fixed = {name: value for name, value in made.params.items() if name not in names}
            known = self._compiled[key] = str(made), fixed
        return known


def ask(connection: sa.Connection, *questions: tuple[Statement, Values]) -> list[Any]:
    """Return the first row of each statement, or None; Postgres gets all of them at once."""
    with one_exchange(connection):
        cursors = [(s, s.sent(connection, values)) for s, values in questions]
        rows = [(s, cursor.fetchone()) for s, cursor in cursors]
    return [None if row is None else s.made(row) for s, row in rows]


def execute(connection: sa.Connection, sql: str, values: Values | None = None) -> Any:
    """Execute SQL with the driver; return its cursor; raise what SQLAlchemy raises for it."""
    with _sqlalchemy_errors(connection, sql):
        return _driver(connection).execute(sql, values or {})


def execute_many(connection: sa.Connection, sql: str, rows: Sequence[Any]) -> int:
    """Execute SQL for each of `rows` with the driver; return the number of changed rows."""
    with _sqlalchemy_errors(connection, sql):
        cursor = _driver(connection).cursor()
        cursor.executemany(sql, rows)
        return int(cursor.rowcount)


@contextlib.contextmanager
def one_exchange(connection: sa.Connection) -> Iterator[None]:
    """Send the statements of the block to Postgres without waiting for the result of each.

    Only for statements of this module: SQLAlchemy reads the result of each of its own at once. A
    result that is read within the block waits for it and for those before.
    """
    with contextlib.ExitStack() as block:
        if connection.dialect.name == "postgresql":
            block.enter_context(_sqlalchemy_errors(connection, "one of several statements"))
            block.enter_context(_driver(connection).pipeline())
        yield


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


@contextlib.contextmanager
def _sqlalchemy_errors(connection: sa.Connection, sql: str) -> Iterator[None]:
    base = connection.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        raise sa.exc.DBAPIError.instance(
            sql, None, error, base, dialect=connection.dialect
        ) from error


# Rows are locked until the commit. Without the lock, two collectors would overwrite each other's
# counts. SQLite ignores the lock: it has one writer.
_used_of_run = [
    _run.c[name]
    for name in (
        "pk",
        "id",
        "project",
        "name",
        "state",
        "started_at",
        "step",
        "step_at",
        "tags",
        "sparkline",
        "scalars",
        "not_watched",
        "edited",
        "revision",
        "changes",
    )
]
_used_of_source = [
    _source.c[name]
    for name in (
        "pk",
        "run_pk",
        "attempt_pk",
        "rank",
        "sealed_to",
        "last_seq",
        "batches",
        "records",
    )
]
RUN = Statement(sa.select(*_used_of_run).where(_run.c.id == sa.bindparam("id")).with_for_update())
SOURCE = Statement(
    sa.select(*_used_of_source).where(_source.c.key == sa.bindparam("key")).with_for_update()
)

_newest = (
    sa.select(_attempt.c.pk)
    .where(_attempt.c.run_pk == sa.bindparam("run_pk"))
    .order_by(_attempt.c.started_at.desc(), _attempt.c.pk.desc())
    .limit(1)
)
NEWEST_ATTEMPT = _newest
"""The newest attempt of the run `run_pk`."""
_newest_key = _newest.scalar_subquery()
PRIMARY = Statement(
    sa.select(_newest_key.label("attempt_pk"), sa.func.min(_source.c.rank).label("rank")).where(
        _source.c.attempt_pk == _newest_key
    )
)
"""(newest attempt, its lowest rank) of the run `run_pk`."""

BATCH_CRC = Statement(
    sa.select(_batch.c.crc).where(
        _batch.c.source_pk == sa.bindparam("source_pk"), _batch.c.seq == sa.bindparam("seq")
    )
)
PRUNED_CRCS = Statement(
    sa.select(_pruned.c.lo, _pruned.c.crcs)
    .where(_pruned.c.source_pk == sa.bindparam("source_pk"), _pruned.c.lo <= sa.bindparam("seq"))
    .order_by(_pruned.c.lo.desc())
    .limit(1)
)
"""The checksums of the pruned batches, from the last one that begins at or before `seq`."""
TRACKS = Statement(
    sa.select(_track.c.pk, _track.c.stream, _track.c.version).where(
        _track.c.source_pk == sa.bindparam("source_pk")
    )
)
LAYOUT = Statement(sa.select(_track.c.layout).where(_track.c.pk == sa.bindparam("pk")))

UPDATE_RUN = Statement(sa.update(_run).where(_run.c.pk == sa.bindparam("own_pk")))
UPDATE_SOURCE = Statement(sa.update(_source).where(_source.c.pk == sa.bindparam("own_pk")))
"""Parameters with the name of a column become the columns that are set."""
NEW_FRAMES = Statement(sa.insert(_frame).inline())
NEW_EVENTS = Statement(sa.insert(_event).inline())
NEW_DROPPED = Statement(sa.insert(_dropped).inline())
_MORE_ROWS = Statement(
    sa.update(_track)
    .where(_track.c.pk == sa.bindparam("track_pk"))
    .values(
        rows=_track.c.rows + sa.bindparam("added"),
        log_rows=_track.c.log_rows + sa.bindparam("added"),
    )
)
_MORE_ROWS_OF_ALL = (
    "UPDATE track SET rows = rows + new.added, log_rows = log_rows + new.added "
    "FROM unnest(%(pks)s::bigint[], %(added)s::bigint[]) AS new (pk, added) "
    "WHERE track.pk = new.pk"
)
NEW_CHUNKS = Statement(sa.insert(_chunk).inline())


def add_rows(connection: sa.Connection, added: Mapping[int, int]) -> None:
    """Add the numbers of new steps to the tracks; `added` is by the track's key, not empty."""
    if connection.dialect.name == "postgresql":
        execute(connection, _MORE_ROWS_OF_ALL, {"pks": list(added), "added": [*added.values()]})
    else:
        _MORE_ROWS.run(connection, *({"track_pk": pk, "added": n} for pk, n in added.items()))


def delete_frames(connection: sa.Connection, pks: Sequence[int]) -> int:
    """Delete rows of the log; return how many were there."""
    if connection.dialect.name == "sqlite":
        return execute_many(connection, "DELETE FROM ingest_log WHERE pk = ?", [(p,) for p in pks])
    return connection.execute(sa.delete(_frame).where(_frame.c.pk.in_(pks))).rowcount


def insert_or_ignore(connection: sa.Connection, table: Any) -> Any:
    """Return `INSERT … ON CONFLICT DO NOTHING` in the connection's dialect."""
    return _insert_or_ignore(connection.dialect.name, table)


@lru_cache(maxsize=16)
def _insert_or_ignore(dialect: str, table: Any) -> Any:
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing()


@lru_cache(maxsize=2)
def new_batch_key(dialect: str) -> Statement:
    """Return the insert of a batch's key; it returns no row when the key is stored already."""
    return Statement(_insert_or_ignore(dialect, _batch).returning(_batch.c.seq))
