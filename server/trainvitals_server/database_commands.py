"""`trainvitals db`: back up, restore and upgrade the collector's database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainvitals_server.store.backup import backup
from trainvitals_server.store.lock import InUse, one_collector
from trainvitals_server.store.migrate import StoreUnusable, is_current, migrate, parsed
from trainvitals_server.store.restore import restore
from trainvitals_server.usage import DatabaseUrl, refuse, settings_with

db = typer.Typer(no_args_is_help=True)


@db.command("backup")
def backup_database(
    path: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    database: DatabaseUrl = None,
) -> None:
    """Copy a SQLite database to PATH while collectors go on. For Postgres, use pg_dump."""
    settings = settings_with(database_url=database)
    try:
        size = backup(settings.database, path)
    except StoreUnusable as unusable:
        refuse(str(unusable))
    except OSError as error:
        refuse(f"The copy is not written: {error}")
    typer.echo(f"{path}: {size:,} bytes", err=True)


@db.command("restore")
def restore_database(
    path: Annotated[Path, typer.Argument(help="A file that `db backup` wrote.")],
    database: DatabaseUrl = None,
) -> None:
    """Replace a SQLite database with a backup; the replaced file is kept. Stop the collector first.

    For Postgres, use pg_restore.
    """
    url = settings_with(database_url=database).database
    try:
        with one_collector(parsed(url)) as created:
            kept = restore(url, path)
            created()
    except InUse as used:
        refuse(f"{used} A database is not replaced while a collector uses it.")
    except StoreUnusable as unusable:
        refuse(f"{unusable} The database is unchanged.")
    except OSError as error:
        refuse(f"The backup is not restored: {error}")
    typer.echo(f"Restored {path}.", err=True)
    if kept is not None:
        typer.echo(f"The replaced database is kept: {kept}", err=True)


@db.command("upgrade")
def upgrade(database: DatabaseUrl = None) -> None:
    """Create the database's tables, or upgrade them to this version."""
    url = settings_with(database_url=database).database
    try:
        with one_collector(parsed(url)) as created:
            migrate(url)
            created()
    except InUse as used:
        _stay_current(url, used)
    except StoreUnusable as unusable:
        refuse(str(unusable))
    typer.echo("The database has the tables of this version.", err=True)


def _stay_current(url: str, used: InUse) -> None:
    """Exit when a collector uses a SQLite database that has the tables of another version."""
    try:
        current = is_current(url)
    except StoreUnusable as unusable:
        refuse(str(unusable))
    if not current:
        refuse(
            f"{used} A database is not upgraded while a collector of another version writes to "
            "it. Stop the collector; the new version upgrades the database when it starts."
        )
