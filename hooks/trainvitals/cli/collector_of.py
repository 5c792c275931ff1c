"""Select the collector that a command queries."""

from __future__ import annotations

import typer

from trainvitals.api.client import Client
from trainvitals.config import PORT, load

USAGE = 2


def collector_of(url: str | None) -> Client:
    """Return a client for the collector at `url`, else in the settings, else on this machine."""
    settings = load(collector=url)
    configured = settings.collector if settings.collector != "off" else ""
    try:
        return Client(configured or f"http://127.0.0.1:{PORT}", settings.read_token())
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USAGE) from None
