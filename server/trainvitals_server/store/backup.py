"""Copy a SQLite database to one file, while collectors go on writing to it.

Comes in: the database's URL, the path of the copy. Goes out: the copy, complete at one moment.
Promise:  `path` exists only when the copy is complete, checked and synced to disk.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from sqlalchemy.engine import URL

from trainvitals_server.store.migrate import StoreUnusable, parsed


def backup(database_url: str, path: Path) -> int:
    """Write a copy of the database to `path`; return its size in bytes.

    The copy contains what was committed when the copying began.

    Raises:
        StoreUnusable: the database is Postgres, does not exist, or is damaged.
        FileExistsError: `path` exists.
        OSError: the copy cannot be written.
    """
    url = parsed(database_url)
    if url.get_backend_name() != "sqlite":
        where = (url.username, None, url.host, url.port, url.database, url.query)
        shown = URL.create("postgresql", *where).render_as_string()
        raise StoreUnusable(
            f"Copy a Postgres database with its own tool: pg_dump --format=custom --file={path} "
            f"{shown}"
        )
    source = Path(url.database or "")
    if not source.is_file():
        raise StoreUnusable(f"There is no database at {source}.")
    if path.exists():
        raise FileExistsError(f"{path} exists")
    part = path.with_name(f"{path.name}.part")
    # The file holds the hashes of tokens: only its owner may read it.
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        _copy(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.link(part, path)  # fails if `path` was created meanwhile; a rename would replace it
    except sqlite3.Error as error:
        raise StoreUnusable(f"The database {source} cannot be copied: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def _copy(source: Path, part: Path) -> None:
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True)) as reader,
        contextlib.closing(sqlite3.connect(part)) as copy,
    ):
        # All pages in one step: copying in several steps begins again after each commit of a
        # collector. Readers of a WAL database do not block writers.
        reader.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without -wal and -shm
        [found] = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
