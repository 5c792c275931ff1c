"""`trainvitals silence add|end|list`: silences that are added while the collector runs.

Exit code 0, 2 for wrong usage (unknown silence, a token without the scope admin), 3 if the
collector cannot be reached. Output for scripts goes to stdout, messages for people go to stderr.
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from trainvitals.api.schema import Notifications, Silence
from trainvitals.cli.changes import changed
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import Url
from trainvitals.report.text import clean

Reason = Annotated[str, typer.Argument(help="The reason, for other people.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id shown by `trainvitals silence list`.")]
Hours = Annotated[float, typer.Option(help="Hours from now; at most 720.")]
Runs = Annotated[list[str] | None, typer.Option("--run", help="Pattern of runs; repeatable.")]
Rules = Annotated[list[str] | None, typer.Option("--rule", help="Pattern of rules; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print the silences as JSON.")]
Projects = Annotated[
    list[str] | None, typer.Option("--project", help="Pattern of projects; repeatable.")
]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(no_args_is_help=True)
    group.command("add")(add)
    group.command("end")(end_one)
    group.command("list")(list_all)
    app.add_typer(group, name="silence")


def add(
    reason: Reason,
    runs: Runs = None,
    rules: Rules = None,
    projects: Projects = None,
    hours: Hours = 1.0,
    collector: Url = None,
) -> None:
    """Suppress messages about matching findings for some hours; print the id of the silence."""
    source = collector_of(collector)
    patterns = {"runs": runs, "rules": rules, "projects": projects}
    given = {name: values for name, values in patterns.items() if values}
    added = changed(lambda: source.silence(reason=reason, hours=hours, **given))
    typer.echo(added.id)


def end_one(silence: Id, collector: Url = None) -> None:
    """End a silence. Findings that are still open then raise a message."""
    source = collector_of(collector)
    changed(lambda: source.end_silence(silence))
    typer.echo(f"The silence {silence} has ended.", err=True)


def list_all(collector: Url = None, as_json: Json = False) -> None:
    """List the active silences: id (- if from the settings), end, patterns, reason.

    As JSON, `until` is in seconds since the epoch, and null for a silence without end.
    """
    source = collector_of(collector)
    known = changed(lambda: source.fetch("/notifications", Notifications, limit=0))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(known.silences), indent=2).decode())
        return
    for silence in known.silences:
        typer.echo("\t".join(_row(silence)))


def _row(silence: Silence) -> tuple[str, ...]:
    until = "for ever"
    if silence.until is not None:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(silence.until))
    patterns = (silence.projects, silence.runs, silence.rules)
    texts = (*(",".join(names) for names in patterns), silence.reason)
    return silence.id or "-", until, *(clean(text) for text in texts)
