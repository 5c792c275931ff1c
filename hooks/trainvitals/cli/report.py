"""`trainvitals report` and `trainvitals check`: the collector's diagnosis of a run.

`report` shows the card, `check` one line. The exit code is the verdict:

0  healthy, or no finding at or over --fail-on
1  an open finding at or over --fail-on
2  the command was wrong (unknown run, no permission)
3  the collector cannot be reached, or has not diagnosed the run yet
4  too early: nothing found, in fewer steps than the rules need
5  blind: rules could not run, since what they read was never seen
6  failed: the run ended with an exception, or contact was lost
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from trainvitals.api.client import Client, Refused, Unreachable
from trainvitals.cli.collector_of import collector_of

if TYPE_CHECKING:
    from trainvitals.api.schema import Diagnosis

FINDINGS, USAGE, UNREACHABLE, TOO_EARLY, BLIND, FAILED = 1, 2, 3, 4, 5, 6
T = TypeVar("T")


class FailOn(StrEnum):
    """From which severity on a finding makes the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's name or id.")]
Url = Annotated[str | None, typer.Option("--collector", help="Its address.")]
Json = Annotated[bool, typer.Option("--json", help="The diagnosis as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the exit code.")]
Fail = Annotated[FailOn, typer.Option(help="From which severity on to end with 1.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for a first diagnosis.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("report")(report)
    app.command("check")(check)


def report(
    run: Run,
    collector: Url = None,
    as_json: Json = False,
    quiet: Quiet = False,
    fail_on: Fail = FailOn.WARNING,
    wait: Wait = 5.0,
) -> None:
    """Show the diagnosis of RUN as a card. The exit code is that of `check`."""
    source = collector_of(collector)
    diagnosis = _diagnosis(source, run, wait)
    if as_json:
        _show_json(diagnosis, quiet)
    elif not quiet:
        from trainvitals.remote import curves_of
        from trainvitals.report import card

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = min(100, _terminal_width())
        curves = _guarded(lambda: curves_of(source, diagnosis))
        typer.echo(card(diagnosis, colour=colour, width=width, curves=curves), nl=False)
    raise typer.Exit(exit_code(diagnosis, fail_on))


def check(
    run: Run,
    collector: Url = None,
    as_json: Json = False,
    quiet: Quiet = False,
    fail_on: Fail = FailOn.WARNING,
    wait: Wait = 5.0,
) -> None:
    """Print the verdict on RUN in one line. For CI: the exit code is the verdict.

    0 healthy, 1 findings at or over --fail-on, 2 wrong usage, 3 collector unreachable, 4 too early,
    5 blind (rules could not run), 6 the run failed.
    """
    diagnosis = _diagnosis(collector_of(collector), run, wait)
    if as_json:
        _show_json(diagnosis, quiet)
    elif not quiet:
        from trainvitals.report import line

        typer.echo(line(diagnosis))
    raise typer.Exit(exit_code(diagnosis, fail_on))


def exit_code(diagnosis: Diagnosis, fail_on: FailOn) -> int:
    """Return the exit code of a diagnosis: see the module's table. With --fail-on never: 0."""
    from trainvitals.api.schema import Severity, Verdict

    if fail_on is FailOn.NEVER:
        return 0
    if diagnosis.verdict is Verdict.FAILED:
        return FAILED
    limit = Severity(fail_on.value).rank
    if any(f.severity.rank >= limit for f in diagnosis.open):
        return FINDINGS
    return {Verdict.BLIND: BLIND, Verdict.TOO_EARLY: TOO_EARLY}.get(diagnosis.verdict, 0)


def _diagnosis(source: Client, run: str, wait_s: float) -> Diagnosis:
    """Return the diagnosis; without one after `wait_s` the answer is 3, never "healthy"."""
    from trainvitals.remote import diagnosis_of

    deadline = time.monotonic() + wait_s
    while True:
        diagnosis = _guarded(lambda: diagnosis_of(source, run))
        if diagnosis is not None:
            return diagnosis
        if time.monotonic() >= deadline:
            _end(UNREACHABLE, f"{source.url} knows {run!r}, but has not diagnosed it yet.")
        time.sleep(0.2)


def _guarded(call: Callable[[], T]) -> T:
    """Return what `call` returns; a refusal, or no answer, ends the command."""
    try:
        return call()
    except Unreachable as error:
        _end(UNREACHABLE, f"{error}. Is it running there? `trainvitals doctor` looks further.")
    except Refused as refused:
        hint = ""
        if refused.reason in ("unauthorised", "forbidden"):
            hint = " It needs a token with the scope read, in TRAINVITALS_TOKEN or a token file."
        _end(USAGE, f"{refused}{hint}")


def _show_json(diagnosis: Diagnosis, quiet: bool) -> None:
    if quiet:
        return
    from trainvitals.report import as_json

    typer.echo(as_json(diagnosis))


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((80, 24)).columns


def _end(code: int, message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
