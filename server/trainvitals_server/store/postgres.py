"""A Postgres server, which several collectors can share.

Postgres handles concurrent writers itself: a task runs in the caller's thread and runs again after
a deadlock or a serialisation failure.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import psycopg
import sqlalchemy as sa
import stamina
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from trainvitals_server.store.claims import Claims
from trainvitals_server.store.database import Task
from trainvitals_server.store.types import Durability, QueueFull

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTIONS_KEPT: Final = 8
CONNECTIONS_MAX: Final = 16
IDLE_S: Final = 1.0
"""Seconds after which a connection is tested before it is used again."""


class BinaryCursor(psycopg.Cursor[Any]):
    """A cursor with binary results: as text, each byte of a blob is two, to encode and parse."""

    def __init__(self, connection: psycopg.Connection[Any], **options: Any) -> None:
        super().__init__(connection, **options)
        self.format = psycopg.pq.Format.BINARY


class PostgresDatabase:
    """A Postgres server, which several collectors can share."""

    dialect = "postgresql"
    durability: Durability = "full"
    exclusive = False

    def __init__(self, url: URL, *, queue_bytes_max: int) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._claims = Claims()
        self._writers = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="trainvitals-write")
        self._engine = sa.create_engine(
            url,
            pool_size=CONNECTIONS_KEPT,
            max_overflow=CONNECTIONS_MAX - CONNECTIONS_KEPT,
            connect_args={
                # pgbouncer in transaction mode does not support prepared statements.
                "prepare_threshold": None,
                "cursor_factory": BinaryCursor,
            },
        )
        sa.event.listen(self._engine, "connect", require_synced_commits)
        sa.event.listen(self._engine, "checkin", note_the_time)
        sa.event.listen(self._engine, "checkout", refuse_a_lost_connection)
        sa.event.listen(self._engine, "connect", warn_without_fsync, once=True)

    def write(self, task: Task[T], *, size: int = 0) -> T:
        self._hold(size)
        return self._written(task, size)

    def submit(self, task: Task[T], *, size: int = 0) -> Future[T]:
        self._hold(size)
        started = self._writers.submit(self._written, task, size)

        def cancelled(future: Future[T]) -> None:
            if future.cancelled():
                self._release(size)

        started.add_done_callback(cancelled)
        return started

    def _hold(self, size: int) -> None:
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + size > self._queue_bytes_max:
                raise QueueFull(self._waiting_bytes, self._queue_bytes_max)
            self._waiting_bytes += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._waiting_bytes -= size

    def _written(self, task: Task[T], size: int) -> T:
        try:
            for attempt in stamina.retry_context(
                on=_may_retry, attempts=_ATTEMPTS, wait_initial=0.01, wait_max=0.5
            ):
                with attempt, self._engine.begin() as connection:
                    return task(connection)
            raise AssertionError("the last attempt returns or raises")
        finally:
            self._release(size)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        connection = self._engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def claim(self, key: int) -> Iterator[bool]:
        with self._claims.claim(key) as free:
            if not free:
                yield False
                return
            # The lock ends with the transaction. A session lock would stay with a pooled
            # connection, and stay after a collector was killed.
            with self._engine.begin() as connection:
                yield bool(
                    connection.scalar(
                        sa.text("SELECT pg_try_advisory_xact_lock(:space, :key)"),
                        {"space": _CLAIM_SPACE, "key": key},
                    )
                )

    def size_bytes(self) -> int:
        with self.read() as connection:
            size = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
        return int(size or 0)

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    def failed(self) -> str | None:
        return None

    def close(self) -> None:
        self._writers.shutdown()
        self._engine.dispose()


def note_the_time(_: object, record: ConnectionPoolEntry) -> None:
    """Note when a connection was used last."""
    record.info["used_at"] = time.monotonic()


def refuse_a_lost_connection(
    connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _: object
) -> None:
    """Let the pool open another connection if the server has closed this one.

    The server is asked only after a pause: to ask it before each use cost two exchanges a batch.
    """
    if time.monotonic() - record.info.get("used_at", -math.inf) < IDLE_S:
        return
    try:
        connection.execute("")
        connection.rollback()
    except psycopg.Error as error:
        raise sa.exc.DisconnectionError(str(error)) from error


def require_synced_commits(connection: psycopg.Connection[Any], _: object) -> None:
    """Let a commit return after it is on disk, also where the server has another default.

    With synchronous_commit=off, Postgres confirms a commit up to 0.6 s before it writes it; a batch
    would be acknowledged and lost. The other values keep the commit on this server at least.

    Source: https://www.postgresql.org/docs/15/wal-async-commit.html.
    """
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def warn_without_fsync(connection: psycopg.Connection[Any], _: object) -> None:
    """Log a warning when the server never syncs its files; no client can change that."""
    row = connection.execute("SELECT current_setting('fsync')").fetchone()
    connection.commit()
    if row == ("off",):
        log.warning(
            "Postgres runs with fsync=off: a power cut can lose acknowledged batches or the whole "
            "database. Set fsync = on in postgresql.conf and reload the server."
        )


_CLAIM_SPACE = 0x7456  # the first key of trainvitals' advisory locks in Postgres
_ATTEMPTS = 6
_RETRIED = {"40001", "40P01", "23505"}


def _may_retry(error: Exception) -> bool:
    """Return whether the task may run again after `error`.

    True for a deadlock, a serialisation failure, or two collectors that inserted the same row.
    False for a lost connection: the commit may have succeeded, so the sender must repeat the batch.
    """
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRIED
