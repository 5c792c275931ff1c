"""`trainvitals token`: in the database, or through the collector that uses it.

Comes in: the settings. Goes out: the token or the list, on stdout.
Promise:  a SQLite database that a collector uses is not opened for writing: two writing connections
          can lose data (https://www.sqlite.org/wal.html#walresetbug). A request is sent to the
          collector instead.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Protocol

import typer

from trainvitals_server.auth import Scope, Tokens
from trainvitals_server.auth.token_file import own_token_file
from trainvitals_server.auth.tokens import Known
from trainvitals_server.running import NoAnswer, RunningCollector
from trainvitals_server.settings import Settings
from trainvitals_server.store import Store
from trainvitals_server.store.lock import InUse, one_collector
from trainvitals_server.store.migrate import StoreUnusable, parsed
from trainvitals_server.usage import DatabaseUrl, refuse, settings_with

token = typer.Typer(no_args_is_help=True)


class _TokenAdmin(Protocol):
    def create(
        self, scope: Scope, *, project: str | None, label: str, lifetime_s: float | None
    ) -> str: ...
    def all(self) -> list[Known]: ...
    def revoke(self, token_id: str) -> bool: ...


@contextlib.contextmanager
def _tokens(database: str | None) -> Iterator[_TokenAdmin]:
    """Yield the tokens; exit when neither the database nor its collector can be used."""
    settings = settings_with(database_url=database)
    try:
        with one_collector(parsed(settings.database)) as created:
            store = Store.open(settings.database)
            created()
            try:
                yield Tokens(store.database)
            finally:
                store.close()
    except InUse as used:
        if not used.address:
            refuse(str(used))
        try:
            yield _running(settings, used.address)
        except NoAnswer as failed:
            refuse(f"The database is used by the collector at {used.address}. {failed}")
    except StoreUnusable as unusable:
        refuse(str(unusable))


def _running(settings: Settings, address: str) -> RunningCollector:
    url = parsed(settings.database)
    files = [settings.token_path, own_token_file(url, settings.home_path)]
    if url.database and url.get_backend_name() == "sqlite":
        # The token file of a collector whose home is the folder of its database, as in the demo.
        files.append(Path(url.database).parent / "token")
    return RunningCollector(address, files, settings.tls_certificate)


@token.command("create")
def create_token(
    scope: Annotated[Scope, typer.Argument(help="What the token allows.")],
    project: Annotated[str | None, typer.Option(help="Restrict it to one project.")] = None,
    label: Annotated[str, typer.Option(help="Its purpose, for `token list`.")] = "",
    days: Annotated[
        float | None, typer.Option(min=0, help="Lifetime in days. Default: no limit.")
    ] = None,
    database: DatabaseUrl = None,
) -> None:
    """Create a token and print it. It cannot be shown again."""
    lifetime_s = None if days is None else days * 86_400
    with _tokens(database) as tokens:
        typer.echo(tokens.create(scope, project=project, label=label, lifetime_s=lifetime_s))


@token.command("list")
def list_tokens(
    database: DatabaseUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tokens as JSON.")] = False,
) -> None:
    """List the tokens: id, scope, project, day of creation, state, label.

    As JSON, times are in seconds since the epoch. The tokens themselves are not stored.
    """
    with _tokens(database) as tokens:
        known = tokens.all()
        if as_json:
            rows = [row._asdict() | {"state": row.state(time.time())} for row in known]
            typer.echo(json.dumps(rows, indent=2))
            return
        for row in known:
            made = time.strftime("%Y-%m-%d", time.gmtime(row.created_at))
            state = row.state(time.time())
            typer.echo(f"{row.id}\t{row.scope}\t{row.project or '*'}\t{made}\t{state}\t{row.label}")


@token.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="The id shown by `token list`.")],
    database: DatabaseUrl = None,
) -> None:
    """Revoke a token."""
    with _tokens(database) as tokens:
        if not tokens.revoke(token_id):
            refuse("No valid token has this id; `trainvitals token list` shows all tokens.")
