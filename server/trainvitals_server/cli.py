"""The collector's subcommands of `trainvitals`: serve, up, notify; token and db are beside it.

Exit codes: 0 success, 1 the collector failed to start, 2 the command or a setting is not valid.
Output for scripts goes to stdout, messages for people go to stderr.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from trainvitals_server.app import create_app
from trainvitals_server.connections import ConnectionTable, protocol_class
from trainvitals_server.database_commands import db
from trainvitals_server.memory import return_freed_memory
from trainvitals_server.notifications.channels import DeliveryFailed, sender
from trainvitals_server.notifications.message import TEST_SUMMARY, Message
from trainvitals_server.service import RESCUE
from trainvitals_server.settings import Settings
from trainvitals_server.store.file_systems import refuse_network_file_system
from trainvitals_server.store.lock import one_collector
from trainvitals_server.store.migrate import StoreUnusable, migrate, parsed
from trainvitals_server.store.rescue import open_rescue
from trainvitals_server.token_commands import token
from trainvitals_server.usage import DatabaseUrl, refuse, settings_with

Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0: any free. Default: 8321.")]
BehindProxy = Annotated[
    bool, typer.Option("--behind-proxy", help="A reverse proxy terminates TLS.")
]
Certificate = Annotated[
    Path | None, typer.Option("--tls-cert", help="PEM file of the certificate.")
]
Rescue = Annotated[
    bool, typer.Option("--rescue", help="Serve a damaged SQLite file; it is only read.")
]
PrivateKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM file of the key.")]


def register(app: typer.Typer) -> None:
    """Add the collector's commands to `app`."""
    app.command("serve")(serve)
    app.command("up")(up)
    app.add_typer(token, name="token", help="Create, list and revoke the collector's tokens.")
    app.add_typer(notify, name="notify", help="Messages about findings and lost runs.")
    app.add_typer(db, name="db", help="The collector's database.")


def serve(
    host: Host = None,
    port: Port = None,
    database: DatabaseUrl = None,
    behind_proxy: BehindProxy = False,
    tls_cert: Certificate = None,
    tls_key: PrivateKey = None,
    rescue: Rescue = False,
) -> None:
    """Run the collector: receive batches, diagnose runs, serve the API and /metrics."""
    _serve(
        settings_with(
            host=host,
            port=port,
            database_url=database,
            behind_proxy=behind_proxy or None,
            tls_certificate=tls_cert,
            tls_key=tls_key,
            rescue=rescue or None,
        ),
        mounts=False,
    )


def up(host: Host = None, port: Port = None, database: DatabaseUrl = None) -> None:
    """Run collector and dashboard on one port; the address for the browser is printed."""
    settings = settings_with(host=host, port=port, database_url=database)
    if not settings.is_loopback:
        # The mounted dashboard uses the collector's own token and requires none from its visitors.
        refuse(
            f"`up` is for one person on one machine; {settings.host} can be reached from others. "
            "Run `trainvitals serve` and `trainvitals dashboard`, which asks each visitor for a "
            "token."
        )
    _serve(settings, mounts=True)


def refuse_bare_public_bind(settings: Settings) -> None:
    """Exit when tokens would cross a network unencrypted."""
    if settings.is_loopback or settings.behind_proxy:
        return
    if settings.tls_certificate and settings.tls_key:
        return
    refuse(
        f"{settings.host} can be reached from other machines, and tokens would cross the network "
        "unencrypted. Give --tls-cert and --tls-key, or --behind-proxy if a reverse proxy "
        "terminates TLS."
    )


def _serve(settings: Settings, *, mounts: bool) -> None:
    refuse_bare_public_bind(settings)
    return_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(settings))
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        stack.enter_context(_alone(settings))
        server = _Server(uvicorn_config(settings, mounts=mounts), settings, mounts=mounts)
        server.run(sockets=[listener])
    if not server.started or server.failed:
        raise typer.Exit(1)  # the cause is in the log


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the lock of the database and upgrade it, or check that rescue can read it."""
    allowed = settings.rescue or settings.network_file_system  # rescue only reads
    try:
        url = parsed(settings.database)
        if url.get_backend_name() == "sqlite" and not allowed:
            refuse_network_file_system(Path(url.database or ""))
        with one_collector(url, settings.local_url) as created:
            if settings.rescue:
                open_rescue(url).close()
            else:
                migrate(settings.database)
                created()
            yield
    except StoreUnusable as unusable:
        refuse(str(unusable))


class _Server(uvicorn.Server):
    """Prints the addresses and the token file as soon as the collector answers requests."""

    def __init__(self, config: uvicorn.Config, settings: Settings, *, mounts: bool) -> None:
        super().__init__(config)
        self._settings = settings
        self._mounts = mounts
        self.failed = False
        """Whether the server stops because the database failed."""

    async def on_tick(self, counter: int) -> bool:
        """Stop when the database has failed: a supervisor starts the collector again."""
        app = self.config.app
        assert isinstance(app, FastAPI)  # noqa: S101 - from uvicorn_config
        if app.state.store.database.failed() is not None:
            self.failed = True
            return True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        settings, app = self._settings, self.config.app
        assert isinstance(app, FastAPI)  # noqa: S101 - from uvicorn_config
        typer.echo(f"trainvitals collector: {settings.url}", err=True)
        if self._mounts:
            typer.echo(f"dashboard:             {settings.url}/", err=True)
        typer.echo(f"token file:            {app.state.token_file}", err=True)
        if settings.rescue:
            typer.echo(f"{RESCUE} Batches are answered 503.", err=True)
            return
        if app.state.token_file != settings.token_path:
            typer.echo(
                f"{settings.token_path} holds a token that is not an admin token of this "
                "collector's database; it is left unchanged. To send runs to this collector:\n"
                f"  export TRAINVITALS_COLLECTOR={settings.url}\n"
                f"  export TRAINVITALS_TOKEN_FILE={shlex.quote(str(app.state.token_file))}",
                err=True,
            )


def uvicorn_config(settings: Settings, *, mounts: bool = False) -> uvicorn.Config:
    """Return the uvicorn configuration of the collector, for the commands and the tests."""
    app = create_app(settings, mounts=mounts)
    table = ConnectionTable(
        deadline_s=settings.request_deadline_s,
        header_bytes_max=settings.header_bytes_max,
        message_bytes_max=2 * settings.body_bytes_max + 65536,  # with the headers of chunks
        busy_max=settings.connections_max,
        count=app.state.ingest_counters.refused,
    )
    return uvicorn.Config(
        app,
        http=protocol_class(table),
        ws="auto" if mounts else "none",  # only the dashboard uses WebSockets
        headers=[("X-Content-Type-Options", "nosniff")],
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """Yield a socket that listens on the settings' address; exit when the port is in use."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # IPPROTO_TCP is explicit: asyncio sets TCP_NODELAY only for such sockets, and without it every
    # response waits 40 ms for the client's delayed acknowledgement.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(512)
        except OSError as error:
            refuse(
                f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}. "
                "Is a collector already running there? --port selects another; 0: any free one."
            )
        yield listener


notify = typer.Typer(no_args_is_help=True)


@notify.callback()
def _notify() -> None:
    """Keep `test` a subcommand: typer would make a single command the program itself."""


@notify.command("test")
def send_test_message(
    channel: Annotated[str | None, typer.Option(help="Only this channel.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Send a test message to each channel; exit 1 when one is not delivered.

    As JSON: name of the channel → the reason for which it is not delivered, null if it is.
    """
    channels = settings_with().notifications.channels
    if channel is not None and channel not in channels:
        refuse(f"No channel has this name. Channels: {', '.join(channels) or 'none'}.")
    if not channels:
        refuse("The settings have no channel: docs/notifications.md shows an example.")
    reasons: dict[str, str | None] = {}
    for name in [channel] if channel else channels:
        reasons[name] = None
        try:
            sender(channels[name])(Message(event="test", summary=TEST_SUMMARY))
        except DeliveryFailed as failure:
            reasons[name] = str(failure)
        if not as_json:
            reason = reasons[name]
            typer.echo(f"{name}: {reason or 'delivered'}", err=reason is not None)
    if as_json:
        typer.echo(json.dumps(reasons, indent=2))
    if any(reason is not None for reason in reasons.values()):
        raise typer.Exit(1)
