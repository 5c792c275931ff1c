"""Two database engines behind one interface: write in a transaction, read from a snapshot.

SQLite has one writer thread with one connection. It takes all queued tasks, runs each task in its
own savepoint, commits once (`synchronous=FULL`) and then returns the results. Readers open the
file read-only. Postgres handles concurrent writers itself: a task runs in the caller's thread and
runs again after a deadlock or a serialisation failure.

A disk error stops SQLite's writer: it does not acknowledge the unsynced batches, nor any batch
after them.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
import stamina
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
)
from sqlalchemy.pool import NullPool

from trainvitals_server.store.types import QueueFull

log = logging.getLogger(__name__)
T = TypeVar("T")
Task = Callable[[sa.Connection], T]

READERS_MAX = 8
_ERRORS_OF_TASKS = (IntegrityError, DataError, ProgrammingError)
"""Errors of a statement, not of the disk."""
GROUP_MAX = 256


class Database(Protocol):
    """The interface that the store needs from a database engine."""

    dialect: str

    def write(self, task: Task[T], *, size: int = 0) -> T:
        """Run `task` in a transaction; return its result after the commit is synced to disk.

        `size` is the number of bytes that the task holds in memory while it is queued. Raises
        QueueFull when the queue holds too many bytes already. When the task raises, its writes
        are rolled back and the exception is raised here.
        """
        ...

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Return a connection whose queries all read the same snapshot of the database."""
        ...

    def claim(self, key: int) -> contextlib.AbstractContextManager[bool]:
        """Yield whether this caller holds `key` exclusively, across all collectors.

        The claim is released when the block ends.
        """
        ...

    def size_bytes(self) -> int:
        """Return the size of the database on disk."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Number of bytes in the write queue."""
        ...

    def failed(self) -> str | None:
        """Return the reason why writes are no longer possible, or None."""
        ...

    def close(self) -> None:
        """Write the queued tasks and close the database."""
        ...


class _Claims:
    """The keys that this process has claimed."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def claim(self, key: int) -> Iterator[bool]:
        with self._lock:
            free = key not in self._held
            self._held.add(key)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._held.discard(key)


@dataclass
class _Waiting:
    task: Callable[[sa.Connection], Any]
    size: int
    answer: Future[Any]


class SqliteDatabase:
    """A SQLite file with one writer thread and read-only reader connections."""

    dialect = "sqlite"

    def __init__(self, url: URL, *, queue_bytes_max: int) -> None:
        self.path = Path(url.database or "")
        self._queue_bytes_max = queue_bytes_max
        self._claims = _Claims()
        self._writer_engine = sa.create_engine(
            "sqlite://", creator=self._connect_writer, poolclass=NullPool
        )
        self._reader_engine = sa.create_engine(
            "sqlite://",
            creator=self._connect_reader,
            poolclass=sa.pool.QueuePool,
            pool_size=READERS_MAX,
            max_overflow=0,
        )
        for engine, begin in (
            (self._writer_engine, "BEGIN IMMEDIATE"),
            (self._reader_engine, "BEGIN"),
        ):
            sa.event.listen(engine, "begin", _begin_with(begin))
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._condition = threading.Condition()
        self._closing = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="trainvitals-writer", daemon=True)
        self._thread.start()

    def _connect_writer(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        for pragma in (
            "busy_timeout=10000",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "cache_size=-32768",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        for pragma in ("busy_timeout=10000", "query_only=ON", "cache_size=-16384"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def write(self, task: Task[T], *, size: int = 0) -> T:
        answer: Future[T] = Future()
        with self._condition:
            if self.failure is not None or self._closing:
                raise RuntimeError("The writer has stopped.") from self.failure
            if self._waiting and self._waiting_bytes + size > self._queue_bytes_max:
                raise QueueFull(self._waiting_bytes, self._queue_bytes_max)
            self._waiting.append(_Waiting(task, size, answer))
            self._waiting_bytes += size
            self._condition.notify()
        return answer.result()

    def _run(self) -> None:
        try:
            with self._writer_engine.connect() as connection:
                while group := self._take():
                    try:
                        self._commit(connection, group)
                    except BaseException as error:  # noqa: BLE001 - passed on to every caller
                        self._fail(error, group)
                        if not _is_transient(error):
                            return
        except BaseException as error:  # noqa: BLE001 - the thread ends: nothing may wait for it
            self._stop(error, [])

    def _take(self) -> list[_Waiting]:
        with self._condition:
            while not self._waiting and not self._closing:
                self._condition.wait()
            group = [self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))]
            self._waiting_bytes -= sum(waiting.size for waiting in group)
            return group

    def _commit(self, connection: sa.Connection, group: list[_Waiting]) -> None:
        results: list[tuple[_Waiting, Any, BaseException | None]] = []
        with connection.begin():
            for waiting in group:
                try:
                    # One savepoint per task: a refused batch must not roll back the others.
                    with connection.begin_nested():
                        results.append((waiting, waiting.task(connection), None))
                except DatabaseError as error:
                    if not isinstance(error, _ERRORS_OF_TASKS):
                        # The disk failed or the file is damaged: the transaction may be invalid.
                        raise
                    results.append((waiting, None, error))
                except Exception as error:  # noqa: BLE001 - passed on to the caller
                    results.append((waiting, None, error))
        # Answer only after the commit: before it, the data is not on disk.
        for waiting, result, failed in results:
            if failed is None:
                waiting.answer.set_result(result)
            else:
                waiting.answer.set_exception(failed)

    def _fail(self, error: BaseException, group: list[_Waiting]) -> None:
        if not _is_transient(error):
            self._stop(error, group)
            return
        _refuse(group, error)

    def _stop(self, error: BaseException, group: list[_Waiting]) -> None:
        with self._condition:
            self.failure = self.failure or error
            group = [*group, *self._waiting]
            self._waiting.clear()
            self._waiting_bytes = 0
        log.critical("The collector no longer stores batches: the database raised %s", error)
        _refuse(group, error)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with self._reader_engine.connect() as connection, connection.begin():
            yield connection

    def claim(self, key: int) -> contextlib.AbstractContextManager[bool]:
        return self._claims.claim(key)

    def size_bytes(self) -> int:
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    def failed(self) -> str | None:
        if self.failure is not None:
            return f"The disk failed: {self.failure}"
        if not self._closing and not self._thread.is_alive():
            return "The writer thread has ended."
        return None

    def close(self) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(30)
        self._reader_engine.dispose()
        self._writer_engine.dispose()


def _refuse(group: list[_Waiting], error: BaseException) -> None:
    for waiting in group:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)


def _begin_with(statement: str) -> Callable[[sa.Connection], None]:
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def _is_transient(error: BaseException) -> bool:
    """Return whether the writer may continue after `error`.

    A full disk or a locked file can recover; an input/output error (EIO) cannot.
    """
    original = getattr(error, "orig", None)
    name = getattr(original, "sqlite_errorname", "")
    return name.startswith(("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED"))


class PostgresDatabase:
    """A Postgres server, which several collectors can share."""

    dialect = "postgresql"

    def __init__(self, url: URL, *, queue_bytes_max: int) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._claims = _Claims()
        self._engine = sa.create_engine(
            url,
            pool_size=8,
            max_overflow=8,
            pool_pre_ping=True,
            # pgbouncer in transaction mode does not support prepared statements.
            connect_args={"prepare_threshold": None},
        )

    def write(self, task: Task[T], *, size: int = 0) -> T:
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + size > self._queue_bytes_max:
                raise QueueFull(self._waiting_bytes, self._queue_bytes_max)
            self._waiting_bytes += size
        try:
            for attempt in stamina.retry_context(
                on=_may_retry, attempts=_ATTEMPTS, wait_initial=0.01, wait_max=0.5
            ):
                with attempt, self._engine.begin() as connection:
                    return task(connection)
            raise AssertionError("the last attempt returns or raises")
        finally:
            with self._lock:
                self._waiting_bytes -= size

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


def open_database(url: URL, *, queue_bytes_max: int) -> Database:
    """Return the database at `url`, which `migrate.parsed` returned."""
    if url.get_backend_name() == "sqlite":
        return SqliteDatabase(url, queue_bytes_max=queue_bytes_max)
    return PostgresDatabase(url, queue_bytes_max=queue_bytes_max)
