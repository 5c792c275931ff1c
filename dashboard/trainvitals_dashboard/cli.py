"""The `dashboard` subcommand of `trainvitals`."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from trainvitals_dashboard.access import DEFAULT_URL, CollectorAccess, from_environment

USAGE = 2
LOOPBACK_NAMES = ["localhost", "127.0.0.1", "::1"]


def register(app: typer.Typer) -> None:
    """Add the dashboard's command to `app`."""
    app.command("dashboard")(dashboard)


def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 selects a free port.")] = 8322,
    collector: Annotated[
        str | None, typer.Option(help=f"The collector's URL. Default: {DEFAULT_URL}.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a read token. Default: $TRAINVITALS_HOME/token."),
    ] = None,
) -> None:
    """Run the dashboard of a collector and print its address.

    If other machines can reach the address, each visitor must enter a token.
    """
    access = from_environment(collector, token_file, asks=not is_loopback(host))
    with _listening(host, port) as listener:
        at = f"[{host}]" if ":" in host else host
        typer.echo(f"dashboard: http://{at}:{listener.getsockname()[1]}/", err=True)
        typer.echo(f"collector: {access.url}", err=True)
        if access.asks:
            typer.echo(
                f"{host} can be reached from other machines: visitors are asked for a token. "
                "Use a reverse proxy with TLS.",
                err=True,
            )
        _serve(access, host, listener)


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _serve(access: CollectorAccess, host: str, listener: socket.socket) -> None:
    # Importing Streamlit takes a second, and only this command needs it.
    import uvicorn

    from trainvitals_dashboard import mount

    app = mount.dashboard(
        access,
        **{
            "server.address": host,
            "server.port": listener.getsockname()[1],
            # Rejects DNS rebinding: other host names that resolve to 127.0.0.1.
            "server.allowedHosts": LOOPBACK_NAMES if is_loopback(host) else [],
        },
    )
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        _refuse(
            f"Cannot listen on {host} port {port}: {error.strerror}. Another dashboard may use "
            "this port. Choose another one with --port; 0 selects a free port."
        )
    return listener


def _refuse(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(USAGE)
