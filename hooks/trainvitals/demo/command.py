"""The command `trainvitals demo`."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

USAGE = 2
INTERRUPTED = 130
NEEDED = {
    "torch": "torch",
    "sklearn": "demo",
    "fastapi": "server",
}
"""Module → the extra that installs it."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    end: Annotated[bool, typer.Option("--exit", help="Exit after the table.")] = False,
    port: Annotated[int, typer.Option(help="Preferred port; any free one if it is taken.")] = 8321,
    home: Annotated[
        Path | None, typer.Option(help="Directory for its data. Default: a temporary one.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Train a third of the steps.")] = False,
) -> None:
    """Train healthy and sick networks, show each diagnosis, serve the dashboard until Ctrl-C.

    Exits with 0 when every run got the expected diagnosis and no record was lost, else with 1.
    """
    _refuse_what_is_missing()
    # SIGTERM ends the demo like Ctrl-C: the collector is a child process and must be stopped.
    signal.signal(signal.SIGTERM, _interrupted)
    chosen = home.expanduser().absolute() if home else Path(tempfile.mkdtemp(prefix="trainvitals-"))
    chosen.mkdir(parents=True, exist_ok=True)
    from trainvitals.demo.play import play

    suffix = time.strftime("-%H%M%S") if home else ""
    try:
        code = 0 if play(chosen, port=port, fast=fast, stay=not end, suffix=suffix) else 1
    except KeyboardInterrupt:
        typer.echo("\nInterrupted; the collector has been stopped.", err=True)
        code = INTERRUPTED
    # After a failure the log and the data are kept for inspection.
    if home is None and code != 1:
        shutil.rmtree(chosen, ignore_errors=True)
    raise typer.Exit(code)


def _refuse_what_is_missing() -> None:
    missing = sorted({extra for module, extra in NEEDED.items() if find_spec(module) is None})
    if missing:
        typer.echo(
            "The demo needs packages that are not installed: "
            f"pip install 'trainvitals[{','.join(missing)}]'",
            err=True,
        )
        raise typer.Exit(USAGE)


def _interrupted(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - a signal handler's
    raise KeyboardInterrupt
