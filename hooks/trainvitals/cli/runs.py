"""`trainvitals runs`: the runs of a collector, newest started first; its commands change one.

Exit code 0, 2 for wrong usage, 3 if the collector cannot be reached.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from trainvitals.api.client import Client
from trainvitals.cli.changes import add_to
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import Url, guarded

if TYPE_CHECKING:
    from trainvitals.api.schema import Run

PAGE = 500


class RunState(StrEnum):
    """The states of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"


Project = Annotated[str | None, typer.Option(help="Only runs of this project.")]
State = Annotated[RunState | None, typer.Option(help="Only runs in this state.")]
Limit = Annotated[int, typer.Option(min=1, help="Number of runs, newest started first.")]
Archived = Annotated[bool, typer.Option("--archived", help="Include archived runs.")]
Binned = Annotated[bool, typer.Option("--deleted", help="Only the runs in the bin.")]
Json = Annotated[bool, typer.Option("--json", help="Print the runs as a JSON array.")]


def register(app: typer.Typer) -> None:
    """Add the group; without a command it lists runs."""
    group = typer.Typer(callback=command, invoke_without_command=True)
    add_to(group)
    app.add_typer(group, name="runs")


def command(
    context: typer.Context,
    project: Project = None,
    state: State = None,
    limit: Limit = 50,
    archived: Archived = False,
    deleted: Binned = False,
    as_json: Json = False,
    collector: Url = None,
) -> None:
    """List runs, newest started first: id, name, project, verdict, state, step, loss, age.

    With a command: change one run.
    """
    if context.invoked_subcommand is not None:
        return
    source = collector_of(collector)
    which = {"archived": "true" if archived else None, "deleted": "true" if deleted else None}
    listed = guarded(lambda: runs_of(source, project, state, limit, **which))
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(listed), indent=2).decode())
    else:
        _show(listed, time.time())


def runs_of(
    source: Client, project: str | None, state: str | None, limit: int, **which: str | None
) -> list[Run]:
    """Return up to `limit` runs, newest started first, from as many pages as necessary."""
    found: list[Run] = []
    cursor: str | None = None
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        page = source.runs(project=project, state=state, limit=size, cursor=cursor, **which)
        found += page.runs
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _show(listed: list[Run], now: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from trainvitals.api.wording import ago, number
    from trainvitals.report.text import clean

    if not listed:
        typer.echo("The collector has no such run.", err=True)
        return
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("id", "name", "project", "verdict", "state"):
        table.add_column(name, overflow="fold")
    for name in ("step", "loss", "started"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in listed:
        step = f"{run.step:,}" if run.step >= 0 else "–"
        loss = "–" if run.loss is None else number(run.loss)
        words = (run.id, run.name, run.project, str(run.verdict), run.state)
        table.add_row(*map(clean, words), step, loss, ago(run.started_at, now))
    if not console.is_terminal:
        console.width = 240
    console.print(table)
