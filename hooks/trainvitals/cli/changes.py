"""`trainvitals runs archive|unarchive|rename|tag|delete|undelete`: change a run of a collector.

Exit code 0, 2 for wrong usage (unknown run, a token without the scope admin), 3 if the collector
cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from trainvitals.api.client import Refused, Unreachable
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import UNREACHABLE, USAGE, RunId, Url, end

T = TypeVar("T")

NewName = Annotated[str, typer.Argument(metavar="[NAME]", help="Default: the training's name.")]
Tags = Annotated[
    list[str] | None, typer.Argument(metavar="[TAG]...", help="Default: the training's tags.")
]


def add_to(runs: typer.Typer) -> None:
    """Add the commands to the group `runs`."""
    from trainvitals.cli import delete

    for function in (archive, unarchive, rename, tag, undelete):
        runs.command()(function)
    runs.command("delete")(delete.command)


def changed(call: Callable[[], T]) -> T:
    """Return the result of `call`; exit when the collector refuses or cannot be reached."""
    try:
        return call()
    except Unreachable as error:
        end(UNREACHABLE, str(error))
    except Refused as refused:
        end(USAGE, str(refused))


def archive(run: RunId, collector: Url = None) -> None:
    """Remove RUN from the list of runs. Its data is kept."""
    source = collector_of(collector)
    changed(lambda: source.change(run, archived=True))
    typer.echo(f"The run {run!r} is archived; `trainvitals runs --archived` lists it.", err=True)


def unarchive(run: RunId, collector: Url = None) -> None:
    """Return RUN to the list of runs."""
    source = collector_of(collector)
    changed(lambda: source.change(run, archived=False))
    typer.echo(f"The run {run!r} is in the list again.", err=True)


def rename(run: RunId, name: NewName = "", collector: Url = None) -> None:
    """Change the displayed name of RUN. Its id does not change; RUN may still be in training."""
    source = collector_of(collector)
    found = changed(lambda: source.change(run, name=name or None))
    typer.echo(f"The run {found.id!r} is shown as {found.name!r}.", err=True)


def tag(run: RunId, tags: Tags = None, collector: Url = None) -> None:
    """Replace the tags of RUN."""
    source = collector_of(collector)
    found = changed(lambda: source.change(run, tags=tags or None))
    shown = ", ".join(found.tags) or "none"
    typer.echo(f"The run {found.id!r} has the tags: {shown}.", err=True)


def undelete(run: RunId, collector: Url = None) -> None:
    """Restore RUN from the bin."""
    source = collector_of(collector)
    found = changed(lambda: source.undelete(run))
    typer.echo(f"The run {found.id!r} is restored.", err=True)
