"""A SQLite file with one writer thread and read-only reader connections.

The writer takes all queued tasks, runs each task in its own savepoint, commits once
(`synchronous=FULL`) and then returns the results. Readers open the file read-only. With the
durability `fast` (`synchronous=NORMAL`), commits are synced by the next checkpoint.

A disk error stops the writer: it does not acknowledge the unsynced batches, nor any batch after
them.
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
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, ProgrammingError
from sqlalchemy.pool import NullPool

from trainvitals_server.store.claims import Claims
from trainvitals_server.store.database import Task
from trainvitals_server.store.statements import execute
from trainvitals_server.store.types import Durability, QueueFull

log = logging.getLogger(__name__)
T = TypeVar("T")

READERS_MAX = 8
READER_CACHE_KB = 4096
"""Pages that each reader keeps; what it reads again comes from the page cache of the system."""
_ERRORS_OF_TASKS = (IntegrityError, DataError, ProgrammingError)
"""Errors of a statement, not of the disk."""
GROUP_MAX = 256
_SYNCHRONOUS: Final[dict[Durability, str]] = {"full": "FULL", "fast": "NORMAL"}


@dataclass
class _Waiting:
    task: Callable[[sa.Connection], Any]
    size: int
    answer: Future[Any]


class SqliteDatabase:
    """A SQLite file with one writer thread and read-only reader connections."""

    dialect = "sqlite"
    exclusive = True  # the lock of the file keeps other collectors and commands out

    def __init__(self, url: URL, *, queue_bytes_max: int, durability: Durability = "full") -> None:
        self.durability = durability
        self.path = Path(url.database or "")
        self._queue_bytes_max = queue_bytes_max
        self._claims = Claims()
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
            f"synchronous={_SYNCHRONOUS[self.durability]}",
            "foreign_keys=ON",
            "secure_delete=OFF",  # Debian's build writes zeros over each batch that was sealed
            "cache_size=-32768",
            "temp_store=MEMORY",  # what a savepoint has to undo; else it is a file for each
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        for pragma in ("busy_timeout=10000", "query_only=ON", f"cache_size=-{READER_CACHE_KB}"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def write(self, task: Task[T], *, size: int = 0) -> T:
        return self.submit(task, size=size).result()

    def submit(self, task: Task[T], *, size: int = 0) -> Future[T]:
        answer: Future[T] = Future()
        with self._condition:
            if self.failure is not None or self._closing:
                raise RuntimeError("The writer has stopped.") from self.failure
            if self._waiting and self._waiting_bytes + size > self._queue_bytes_max:
                raise QueueFull(self._waiting_bytes, self._queue_bytes_max)
            self._waiting.append(_Waiting(task, size, answer))
            self._waiting_bytes += size
            self._condition.notify()
        return answer

    def _run(self) -> None:
        try:
            with self._writer_engine.connect() as connection:
                while (group := self._take()) is not None:
                    try:
                        self._commit(connection, group)
                    except BaseException as error:  # noqa: BLE001 - passed on to every caller
                        self._fail(error, group)
                        if not _is_transient(error):
                            return
        except BaseException as error:  # noqa: BLE001 - the thread ends: nothing may wait for it
            self._stop(error, [])

    def _take(self) -> list[_Waiting] | None:
        """Return the tasks that wait, without the cancelled ones; None when all is written."""
        with self._condition:
            while not self._waiting and not self._closing:
                self._condition.wait()
            if not self._waiting:
                return None
            group = [self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))]
            self._waiting_bytes -= sum(waiting.size for waiting in group)
        return [waiting for waiting in group if waiting.answer.set_running_or_notify_cancel()]

    def _commit(self, connection: sa.Connection, group: list[_Waiting]) -> None:
        if not group:
            return
        results: list[tuple[_Waiting, Any, BaseException | None]] = []
        # One savepoint per task: a refused batch must not roll back the others.
        is_alone = len(group) == 1
        with connection.begin() as transaction:
            for waiting in group:
                try:
                    with contextlib.nullcontext() if is_alone else _savepoint(connection):
                        results.append((waiting, waiting.task(connection), None))
                except DatabaseError as error:
                    if not isinstance(error, _ERRORS_OF_TASKS):
                        # The disk failed or the file is damaged: the transaction may be invalid.
                        raise
                    results.append((waiting, None, error))
                except Exception as error:  # noqa: BLE001 - passed on to the caller
                    results.append((waiting, None, error))
            if is_alone and results[0][2] is not None:
                transaction.rollback()
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
        # The connection that is closed last writes the log into the file and removes it, which a
        # reader cannot do.
        self._reader_engine.dispose()
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(30)
        self._reader_engine.dispose()  # one that was in use
        self._writer_engine.dispose()


@contextlib.contextmanager
def _savepoint(connection: sa.Connection) -> Iterator[None]:
    """Undo the block's writes when it raises.

    `connection.begin_nested()` does the same and needs 40 times as long.
    """
    execute(connection, "SAVEPOINT task")
    try:
        yield
    except BaseException:
        with contextlib.suppress(DatabaseError):  # after a disk error there is no transaction
            execute(connection, "ROLLBACK TO task")
            execute(connection, "RELEASE task")
        raise
    execute(connection, "RELEASE task")


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
