"""Replace a SQLite database with a backup, and keep the replaced files.

Comes in: the database's URL, the path of a backup. Goes out: the database, and the replaced files
          under other names.
Promise:  the backup is checked completely first; a failure before the last step, the rename, leaves
          the database as it was. The caller holds the lock of the database.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa

from trainvitals_server.store.migrate import StoreUnusable, is_known, parsed

_MAGIC = b"SQLite format 3\x00"


def restore(database_url: str, source: Path, *, now: float | None = None) -> Path | None:
    """Replace the database with a copy of `source`; return the path of the replaced file, or None.

    The name of the replaced file ends with the time in UTC; its log (`-wal`) is kept beside it.

    Raises:
        StoreUnusable: the database is Postgres, or `source` is not a whole database of trainvitals
            of this version or an older one.
        OSError: a file cannot be written.
    """
    url = parsed(database_url)
    if url.get_backend_name() != "sqlite":
        raise StoreUnusable(
            "Restore a Postgres database with its own tool, into an empty database: pg_restore "
            f"--dbname=NAME {source}"
        )
    target = Path(url.database or "")
    if target.exists() and source.exists() and target.samefile(source):
        raise StoreUnusable(f"{source} is the database itself.")
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        _copied(source, part)
        return _swapped(part, target, time.time() if now is None else now)
    finally:
        part.unlink(missing_ok=True)


def _copied(source: Path, part: Path) -> None:
    """Copy `source` to `part`, check the copy and sync it to disk."""
    if not source.is_file():
        raise StoreUnusable(f"There is no backup at {source}.")
    wal = source.with_name(f"{source.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise StoreUnusable(
            f"{wal} exists: {source} is a live database, and part of its content is in that log. "
            "Make a backup of it with `trainvitals db backup`."
        )
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copyfile(source, part)
    with part.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise StoreUnusable(f"{source} is not a SQLite database.")
        os.fsync(file.fileno())
    uri = f"{part.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            [found] = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise StoreUnusable(f"The backup {source} is damaged: {found}.")
        known = is_known(f"sqlite:///{part}")
    except (sqlite3.Error, sa.exc.DatabaseError) as error:
        raise StoreUnusable(f"The backup {source} is damaged: {error}.") from error
    if not known:
        raise StoreUnusable(
            f"{source} is not a database of trainvitals, or of a newer version: "
            "pip install -U trainvitals."
        )


def _swapped(part: Path, target: Path, now: float) -> Path | None:
    """Replace `target` with `part` in one step; return the new name of the old file."""
    kept = None
    if target.exists():
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        kept = target.with_name(f"{target.name}.replaced-{stamp}")
        # A link: until the rename below, the database exists under its own name.
        os.link(target, kept)
    # The old log must go first: SQLite would apply it to the restored file.
    for ending in ("-wal", "-shm"):
        old = target.with_name(target.name + ending)
        if old.exists() and kept is not None:
            old.rename(kept.with_name(kept.name + ending))
        else:
            old.unlink(missing_ok=True)
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return kept
