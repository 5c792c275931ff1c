"""`trainvitals delete RUN`: move a run to the collector's bin, or delete it permanently.

Exit code 0, 1 if the user declined, 2 for wrong usage (unknown run, a token without
the scope admin, no --yes without a terminal), 3 if the collector cannot be reached.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from trainvitals.cli.changes import changed
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import USAGE, RunId, Url, end

Yes = Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")]
Now = Annotated[bool, typer.Option("--now", help="Delete it permanently.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("delete")(command)


def command(run: RunId, yes: Yes = False, now: Now = False, collector: Url = None) -> None:
    """Move RUN to the bin, from which `trainvitals runs undelete RUN` can restore it for some days.

    With --now, all its data is deleted; this cannot be undone. Later batches of its processes are
    refused; a new start under this id is a new run. The token needs the scope admin.
    """
    source = collector_of(collector)
    if not yes:
        if not sys.stdin.isatty():
            end(USAGE, f"The run {run!r} is not deleted: repeat the command with --yes.")
        ever = " permanently" if now else ""
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
