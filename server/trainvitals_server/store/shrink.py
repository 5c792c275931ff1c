"""Return the free pages of a SQLite file to the file system, while the collector works.

Comes in: a database whose rows were deleted. Goes out: a smaller file.
Promise:  each transaction moves a bounded number of pages, so an ingest waits for one of them at
          most. A reserve of free pages stays for the log, whose rows come and go with each segment.
          Nothing happens on Postgres, which reuses space with its own vacuum, nor in a file that
          was created without `auto_vacuum`.
Start at `Shrinking.run_once`, which the compactor calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from trainvitals_server.store.database import Database

INCREMENTAL: Final = 2
"""Value of SQLite's `PRAGMA auto_vacuum` for files that shrink on request."""
RESERVE_BYTES: Final = 64 * 2**20
SLICE_BYTES: Final = 4 * 2**20
SLICES_MAX: Final = 64
"""Slices of one turn: sealing goes on after them."""


class Shrinking:
    """Shrinks the file of a database by its free pages, less a reserve."""

    def __init__(
        self,
        database: Database,
        is_stopping: Callable[[], bool] = lambda: False,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self._database = database
        self._is_stopping = is_stopping
        self._reserve_bytes = reserve_bytes

    def run_once(self) -> int:
        """Return up to 256 MiB to the file system; return the number of bytes."""
        with self._database.read() as connection:
            if connection.dialect.name != "sqlite":
                return 0
            mode, size, free = (
                _pragma(connection, name) for name in ("auto_vacuum", "page_size", "freelist_count")
            )
        if mode != INCREMENTAL:
            return 0
        pages = SLICE_BYTES // size
        slices = min(SLICES_MAX, (free - self._reserve_bytes // size) // pages)
        done = 0
        while done < slices and not self._is_stopping():
            self._database.write(partial(_move, pages))
            done += 1
        return done * pages * size


def _move(pages: int, connection: sa.Connection) -> None:
    # Python's sqlite3 performs one step of a statement without columns: it moves one page.
    for _ in range(pages):
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")


def _pragma(connection: sa.Connection, name: str) -> int:
    value: Any = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
    return int(value)
