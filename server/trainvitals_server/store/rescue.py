"""A damaged SQLite file, opened read-only: what can be read is served, nothing is written.

Comes in: the database's URL. Goes out: a `Database` that refuses every write.
Promise:  the file and its log are not changed. A read that meets a damaged page raises an error of
          SQLite; reads of other pages succeed.
Start at `open_rescue`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa
from sqlalchemy.engine import URL

from trainvitals_server.store.database import Task
from trainvitals_server.store.migrate import StoreUnusable, lock_path
from trainvitals_server.store.sqlite import READERS_MAX
from trainvitals_server.store.types import Durability

_MAGIC = b"SQLite format 3\x00"


class ReadOnly(Exception):  # noqa: N818 - a state that the API reports
    """The database is open for rescue: nothing is stored."""


class RescueDatabase:
    """Readers of a file that may be damaged. Implements `Database`."""

    dialect = "sqlite"
    durability: Durability = "full"  # nothing is stored
    exclusive = False
    waiting_bytes = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = sa.create_engine(
            "sqlite://",
            creator=self._connect,
            poolclass=sa.pool.QueuePool,
            pool_size=READERS_MAX,
            max_overflow=0,
        )

    def _connect(self) -> sqlite3.Connection:
        """Return a connection that reads as much of the file as possible.

        `writable_schema` makes SQLite open a file that is shorter than its header says. Nothing is
        written: the file is open for reading only.
        """
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        for pragma in ("writable_schema=ON", "query_only=ON", "cache_size=-16384"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def write(self, task: Task[object], *, size: int = 0) -> NoReturn:  # noqa: ARG002
        """Refuse."""
        raise ReadOnly("The database is open for rescue: it is only read.")

    submit = write

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Yield a connection."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def claim(self, key: int) -> Iterator[bool]:  # noqa: ARG002
        """Yield False: nothing is diagnosed, sealed or removed."""
        yield False

    def size_bytes(self) -> int:
        """Return the size of the file."""
        return self.path.stat().st_size

    def failed(self) -> str | None:
        """Return None: the collector goes on to serve what it can read."""
        return None

    def close(self) -> None:
        """Close the readers."""
        self._engine.dispose()


def open_rescue(url: URL) -> RescueDatabase:
    """Return the database of a SQLite URL, for reading only.

    Raises:
        StoreUnusable: it is Postgres, does not exist, or its first page cannot be read.
    """
    if url.get_backend_name() != "sqlite":
        raise StoreUnusable(
            "--rescue reads a damaged SQLite file. Postgres has its own tools: pg_amcheck, pg_dump."
        )
    path = Path(url.database or "")
    if not path.is_file():
        raise StoreUnusable(f"There is no database at {path}.")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise StoreUnusable(
                f"{path} does not begin like a SQLite database: no part of it can be served. "
                f"Restore a backup: trainvitals db restore BACKUP. The lock {lock_path(path)} may "
                "stay."
            )
    database = RescueDatabase(path)
    try:
        with database.read() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
    except sa.exc.DatabaseError as error:
        database.close()
        raise StoreUnusable(
            f"The list of tables in {path} cannot be read: {error.orig}. Restore a backup: "
            "trainvitals db restore BACKUP."
        ) from error
    return database
