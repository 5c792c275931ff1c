"""`trainvitals delete RUN`: put a run into the collector's bin, or remove it for ever.

Exit code 0, 1 if the question was answered with no, 2 for wrong usage (unknown run, a token without
the scope admin, no --yes without a terminal), 3 if the collector cannot be reached.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from trainvitals.cli.changes import changed
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import USAGE, Run, Url, end

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Now = Annotated[bool, typer.Option("--now", help="Remove it for ever, not into the bin.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("delete")(command)


def command(run: Run, yes: Yes = False, now: Now = False, collector: Url = None) -> None:
    """Put RUN into the bin: `trainvitals runs undelete RUN` brings it back for some days.

    With --now, all its data is removed; that cannot be undone. Later batches of its processes are
    refused; a new start under this id is a new run. The token needs the scope admin.
    """
    source = collector_of(collector)
    if not yes:
        if not sys.stdin.isatty():
            end(USAGE, f"The run {run!r} is not deleted: repeat the command with --yes.")
        ever = " for ever" if now else ""
        typer.confirm(f"Delete the run {run!r} from {source.url}{ever}?", abort=True, err=True)
    deleted = changed(lambda: source.delete(run, now=now))
    if deleted.removed_at is None:
        typer.echo(f"The run {run!r} is deleted.", err=True)
        return
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(deleted.removed_at))
    typer.echo(
        f"The run {run!r} is in the bin. Until {until}: trainvitals runs undelete {deleted.id!r}",
        err=True,
    )
