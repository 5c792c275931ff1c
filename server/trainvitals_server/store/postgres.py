"""A Postgres server, which several collectors can share.

Postgres handles concurrent writers itself: a task runs in the caller's thread and runs again after
a deadlock or a serialisation failure.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import sqlalchemy as sa
import stamina
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from trainvitals_server.store.claims import Claims
from trainvitals_server.store.database import Task
from trainvitals_server.store.types import QueueFull

T = TypeVar("T")

CONNECTIONS_KEPT: Final = 8
CONNECTIONS_MAX: Final = 16


class PostgresDatabase:
    """A Postgres server, which several collectors can share."""

    dialect = "postgresql"
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
            pool_pre_ping=True,
            # pgbouncer in transaction mode does not support prepared statements.
            connect_args={"prepare_threshold": None},
        )

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


_CLAIM_SPACE = 0x7456  # the first key of trainvitals' advisory locks in Postgres
_ATTEMPTS = 6
_RETRIED = {"40001", "40P01", "23505"}


def _may_retry(error: Exception) -> bool:
    """Return whether the task may run again after `error`.

    True for a deadlock, a serialisation failure, or two collectors that inserted the same row.
    False for a lost connection: the commit may have succeeded, so the sender must repeat the batch.
    """
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRIED
