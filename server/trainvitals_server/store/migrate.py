"""Create or upgrade the tables of a database with the migrations in this package."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

MIGRATIONS = Path(__file__).with_name("migrations")
CREATED = "created"
"""A line of the lock file: a collector has created the tables of this database."""
PAGE_BYTES: Final = 16384
_LOCK = 0x74567631  # while one collector migrates, the others wait


class StoreUnusable(Exception):  # noqa: N818 - shown to the operator
    """The database cannot be used in its current state; the message says what to do."""


def migrate(database_url: str) -> None:
    """Create or upgrade the tables at `database_url`; do nothing when they are up to date.

    All changes are made in one transaction.

    Raises:
        StoreUnusable: the database cannot be opened, is damaged, or was upgraded by a newer
            trainvitals.
    """
    url = parsed(database_url)
    if url.get_backend_name() == "sqlite":
        _check_file(url)
    engine = sa.create_engine(url, poolclass=NullPool)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _set_page_size)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _upgrade(connection)
    except sa.exc.DatabaseError as error:
        shown = url.render_as_string(hide_password=True)
        advice = (
            " If the file is damaged, restore a backup: trainvitals db restore BACKUP. Until then, "
            "show what can be read: trainvitals serve --rescue."
            if url.get_backend_name() == "sqlite"
            else ""
        )
        raise StoreUnusable(
            f"The database {shown} cannot be used: {error.orig}.{advice}"
        ) from error
    finally:
        engine.dispose()


def is_current(database_url: str) -> bool:
    """Whether a database has the tables of this version. The database is only read.

    Raises:
        StoreUnusable: it cannot be read.
    """
    return (
        _revision(database_url) == ScriptDirectory.from_config(configuration()).get_current_head()
    )


def is_known(database_url: str) -> bool:
    """Whether a database has the tables of this version or of an older one.

    Raises:
        StoreUnusable: it cannot be read.
    """
    scripts = ScriptDirectory.from_config(configuration())
    return _revision(database_url) in {script.revision for script in scripts.walk_revisions()}


def _revision(database_url: str) -> str | None:
    engine = reading_engine(parsed(database_url))
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except sa.exc.DatabaseError as error:
        raise StoreUnusable(f"The database cannot be read: {error.orig}") from error
    finally:
        engine.dispose()


def reading_engine(url: URL) -> sa.Engine:
    """Return an engine that opens a SQLite file read-only, or connects to Postgres."""
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, poolclass=NullPool)
    uri = f"{Path(url.database or '').absolute().as_uri()}?mode=ro"
    return sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True), poolclass=NullPool
    )


def _set_page_size(connection: Any, _: Any) -> None:
    """Set the page size of a file that is still empty, and that it can shrink; others keep theirs.

    A batch of 200 KB takes a third less CPU time to write, and half as much to delete, as with
    SQLite's default of 4,096 bytes.
    """
    connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")


def parsed(database_url: str) -> URL:
    """Return the URL with the driver that trainvitals uses.

    Raises:
        StoreUnusable: the URL is of neither SQLite nor Postgres.
    """
    try:
        url = make_url(database_url)
    except sa.exc.ArgumentError:
        url = URL.create("nothing")
    if url.get_backend_name() == "sqlite":
        return url
    if url.get_backend_name() in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    # The message omits the URL, because it can contain a password.
    raise StoreUnusable(
        "The database must be sqlite:///PATH or postgresql://USER@HOST/NAME; the given URL has "
        "another form."
    )


def configuration() -> Config:
    """Return Alembic's configuration, which needs no configuration file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def _upgrade(connection: sa.Connection) -> None:
    config = configuration()
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise StoreUnusable(
            f"The database is at revision {current}, which this version of trainvitals does not "
            "know: a newer version has upgraded it. Upgrade here too: pip install -U trainvitals."
        )
    if connection.dialect.name == "sqlite" and current != scripts.get_current_head():
        # Python's sqlite3 begins a transaction before an UPDATE, but not before an ALTER TABLE: a
        # collector that is killed between the two would leave tables that no version can read.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _check_file(url: URL) -> None:
    path = Path(url.database or "")
    if not url.database or url.database == ":memory:":
        raise StoreUnusable("The collector needs a database file: sqlite:///PATH.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.stat().st_size and _was_created(path):
        raise StoreUnusable(
            f"{path} is empty, but a collector has used it before: its content is lost. Restore it "
            f"from a backup. To begin with an empty database instead, delete {path} and "
            f"{lock_path(path)}."
        )
    if path.exists() and path.stat().st_size and path.open("rb").read(16) != b"SQLite format 3\x00":
        raise StoreUnusable(
            f"{path} is not a SQLite database. The file is unchanged; give another path, or "
            "restore the database from a backup."
        )
    _check_size(path)
    # Readable by its owner only: the file contains the token hashes and all runs.
    if not path.exists():
        path.touch(mode=0o600)


def lock_path(path: Path) -> Path:
    """Return the lock file of the collector that uses the SQLite database at `path`."""
    return path.with_name(f"{path.name}.lock")


def _was_created(path: Path) -> bool:
    lock = lock_path(path)
    return lock.exists() and CREATED in lock.read_text(errors="replace").splitlines()


def _check_size(path: Path) -> None:
    """Refuse a file that is shorter than its header says.

    Source: https://www.sqlite.org/fileformat.html, sections 1.3.2 and 1.3.8.
    """
    wal = path.with_name(f"{path.name}-wal")
    # With a log, the pages at the end may still be in the log.
    if not path.exists() or (wal.exists() and wal.stat().st_size):
        return
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100:
        if header:
            raise _truncated(path, 100, len(header))
        return
    page = int.from_bytes(header[16:18], "big")
    expected = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    is_valid = header[24:28] == header[92:96]  # false after a write by a very old SQLite
    if is_valid and path.stat().st_size < expected:
        raise _truncated(path, expected, path.stat().st_size)


def _truncated(path: Path, expected: int, got: int) -> StoreUnusable:
    return StoreUnusable(
        f"{path} is truncated: it has {got} bytes and its header says {expected}. The file is "
        "unchanged. Restore a backup: trainvitals db restore BACKUP. Until then, show what can be "
        "read: trainvitals serve --rescue."
    )
