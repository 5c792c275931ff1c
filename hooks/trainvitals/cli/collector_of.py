"""Which collector a command asks."""

from __future__ import annotations

import typer

from trainvitals.collector import Collector
from trainvitals.config import PORT, load

USAGE = 2


def collector_of(url: str | None) -> Collector:
    """Return the collector at `url`, else that of the settings, else the one on this machine."""
    settings = load(collector=url)
    configured = settings.collector if settings.collector != "off" else ""
    try:
        return Collector(configured or f"http://127.0.0.1:{PORT}", settings.read_token())
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USAGE) from None
