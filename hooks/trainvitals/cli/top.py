"""`trainvitals top`: a live table of the runs of a collector, the worst first.

Exit code 0, 2 for wrong usage, 3 if the collector cannot be reached.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trainvitals.api.client import Client, Refused, Unreachable
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import Url, guarded
from trainvitals.cli.runs import Json, Limit, Project, State, runs_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trainvitals.api.schema import Run

QUIT: Final = "q"
BAR: Final = 20
"""Newest points of the loss curve that are shown."""

Once = Annotated[bool, typer.Option(help="Print the table once and exit.")]
Every = Annotated[float, typer.Option(min=0.2, help="Seconds between two requests.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top")(command)


def command(
    project: Project = None,
    state: State = None,
    limit: Limit = 50,
    every: Every = 2.0,
    once: Once = False,
    as_json: Json = False,
    collector: Url = None,
) -> None:
    """Show runs live, running ones with the lowest health first; q quits.

    Without a terminal, or with --json, the runs are printed once.
    """
    source = collector_of(collector)

    def read() -> list[Run]:
        return ordered(runs_of(source, project, state, limit))

    listed = guarded(read)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(listed), indent=2).decode())
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if once or not console.is_terminal:
        if not console.is_terminal:
            console.width = 240
        console.print(table_of(listed, source.url, time.time()))
        return
    with keys() as pressed:
        _live(source, read, listed, every, pressed)


def ordered(runs: Sequence[Run]) -> list[Run]:
    """Return the runs: running ones first, then lost and failed ones, each the worst first.

    Within a state, runs without a health value (too early) come last.
    """
    places = {"running": 0, "lost": 1, "failed": 2}
    return sorted(
        runs,
        key=lambda run: (
            places.get(run.state, 3),
            2.0 if run.health is None else run.health,
            -run.started_at,
        ),
    )


def table_of(runs: Sequence[Run], url: str, now: float, error: str = "") -> RenderableType:
    """Return the table of `runs`; `error` is shown above it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from trainvitals.api.wording import ago, number, percent
    from trainvitals.report.sparkline import sparkline
    from trainvitals.report.text import clean

    running = sum(run.state == "running" for run in runs)
    title = Text(f"{clean(url)}: {len(runs)} runs, {running} running. q quits.", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("run", "state", "verdict", "headline"):
        table.add_column(name, no_wrap=True)
    for name in ("health", "step", "loss", "curve", "steps/s", "reported"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        planned = f"/{run.total_steps:,}" if run.total_steps else ""
        headline = f"{run.headline.code} {run.headline.rule}" if run.headline else ""
        points = [x for x in run.sparkline if x is not None][-BAR:]
        table.add_row(
            *map(clean, (run.name or run.id, run.state, str(run.verdict), headline)),
            "–" if run.health is None else percent(run.health),
            f"{run.step:,}{planned}" if run.step >= 0 else "–",
            number(run.loss),
            sparkline(points, BAR),
            number(run.step_rate),
            ago(run.last_report_at, now),
        )
    return Group(title, *([Text(clean(error), style="red")] if error else []), table)


def _live(
    source: Client,
    read: Callable[[], list[Run]],
    listed: list[Run],
    every: float,
    pressed: Callable[[float], str],
) -> None:
    """Show the table until q is pressed. After a failed request, the error is shown above the last
    table."""
    from rich.live import Live

    with Live(table_of(listed, source.url, time.time()), screen=True, auto_refresh=False) as live:
        while QUIT not in pressed(every):
            error = ""
            try:
                listed = read()
            except (Unreachable, Refused) as gone:
                error = f"{gone}. The table is the last one that was read."
            live.update(table_of(listed, source.url, time.time(), error), refresh=True)


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits up to some seconds for keys and returns them, or "".

    Inside the block the terminal delivers single keys; its mode is restored afterwards. If standard
    input is not a terminal, or on Windows, the function only waits, and Ctrl+C ends the command.
    """
    try:
        import termios
        import tty
    except ImportError:
        yield _only_wait
        return
    if not sys.stdin.isatty():
        yield _only_wait
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        # Not sys.stdin.read(1): it would keep further keys in a buffer that select does not see.
        return os.read(descriptor, 64).decode(errors="replace").lower() if ready else ""

    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _only_wait(seconds: float) -> str:
    time.sleep(seconds)
    return ""
