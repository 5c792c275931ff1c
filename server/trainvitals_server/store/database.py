"""Two database engines behind one interface: write in a transaction, read from a snapshot.

`sqlite` and `postgres` implement it; `rescue` reads a damaged SQLite file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from trainvitals_server.store.types import Durability

T = TypeVar("T")
Task = Callable[[sa.Connection], T]


class Database(Protocol):
    """The interface that the store needs from a database engine."""

    dialect: str
    durability: Durability
    exclusive: bool
    """Whether no other process changes the database."""

    def write(self, task: Task[T], *, size: int = 0) -> T:
        """Run `task` in a transaction; return its result after the commit.

        The commit is then synced to disk, unless `durability` is fast.
        `size` is the number of bytes that the task holds in memory while it is queued. Raises
        QueueFull when the queue holds too many bytes already. When the task raises, its writes
        are rolled back and the exception is raised here.
        """
        ...

    def submit(self, task: Task[T], *, size: int = 0) -> Future[T]:
        """Queue `task`, without waiting; the future has what `write` returns or raises.

        Raises QueueFull at once. The future may be cancelled: a task that has not begun is then
        left out.
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


def open_database(url: URL, *, queue_bytes_max: int, durability: Durability) -> Database:
    """Return the database at `url`, which `migrate.parsed` returned.

    `durability` applies to SQLite; that of Postgres is always full.
    """
    if url.get_backend_name() == "sqlite":
        from trainvitals_server.store.sqlite import SqliteDatabase

        return SqliteDatabase(url, queue_bytes_max=queue_bytes_max, durability=durability)
    # psycopg is installed with the extra `postgres` only.
    from trainvitals_server.store.postgres import PostgresDatabase

    return PostgresDatabase(url, queue_bytes_max=queue_bytes_max)


def is_disk_full(error: DBAPIError) -> bool:
    """Whether SQLite, or the server of Postgres, has no space.

    Source: https://www.postgresql.org/docs/15/errcodes-appendix.html.
    """
    sqlite, postgres = (getattr(error.orig, name, "") for name in ("sqlite_errorname", "sqlstate"))
    return sqlite == "SQLITE_FULL" or postgres == "53100"
