"""`trainvitals delete RUN`: remove a run and all its data from a collector.

Exit code 0, 1 if the question was answered with no, 2 for wrong usage (unknown run, a token without
the scope admin, no --yes without a terminal), 3 if the collector cannot be reached.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trainvitals.api.client import Refused, Unreachable
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import UNREACHABLE, USAGE, Run, Url, end

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("delete")(command)


def command(run: Run, yes: Yes = False, collector: Url = None) -> None:
    """Delete RUN and all its data from the collector. It cannot be undone.

    Later batches of its processes are refused; a new start under this id is a new run. The token
    needs the scope admin.
    """
    source = collector_of(collector)
    if not yes:
        if not sys.stdin.isatty():
            end(USAGE, f"The run {run!r} is not deleted: repeat the command with --yes.")
        typer.confirm(f"Delete the run {run!r} from {source.url}?", abort=True, err=True)
    try:
        source.delete(run)
    except Unreachable as error:
        end(UNREACHABLE, str(error))
    except Refused as refused:
        end(USAGE, str(refused))
    typer.echo(f"The run {run!r} is deleted.", err=True)
