"""`trainvitals report` and `trainvitals check`: the collector's diagnosis of a run.

`report` shows the full diagnosis, `check` prints one line. The exit code states the verdict:

0  healthy, or no finding at or above --fail-on
1  an open finding at or above --fail-on
2  wrong usage (unknown run, no permission)
3  the collector cannot be reached, or has not diagnosed the run yet
4  too early: no findings, but the run has fewer steps than the rules need
5  blind: rules could not run, because their inputs were never measured
6  failed: the run ended with an exception, or the collector lost contact with it
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
    """The lowest severity for which an open finding sets the exit code to 1."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's name or id.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
Url = Annotated[str | None, typer.Option("--collector", help="URL of the collector.")]
Json = Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing; set the exit code.")]
Fail = Annotated[FailOn, typer.Option(help="Lowest severity of findings that give exit code 1.")]
Junit = Annotated[str, typer.Option("--junit", help="Also write the verdict as JUnit XML.")]
Html = Annotated[str, typer.Option("--html", help="Also write the diagnosis as an HTML page.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the first diagnosis.")]


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
    html: Html = "",
) -> None:
    """Show the full diagnosis of RUN. The exit code is the same as for `check`."""
    source = collector_of(collector)
    run = guarded(lambda: source.id_of(run))
    diagnosis = _diagnosis(source, run, wait)
    if html:
        page = guarded(lambda: source.report_page(run))
        _write(page, html, diagnosis.run, ".html", quiet=quiet)
    if as_json:
        show_json(diagnosis, quiet)
    elif not quiet:
        from trainvitals.remote import curves_of
        from trainvitals.report import card

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = min(100, terminal_width())
        curves = guarded(lambda: curves_of(source, diagnosis))
        name = _name(source, run)
        shown = card(diagnosis, colour=colour, width=width, curves=curves, name=name)
        typer.echo(shown, nl=False)
    raise typer.Exit(exit_code(diagnosis, fail_on))


def check(
    run: Run,
    collector: Url = None,
    as_json: Json = False,
    quiet: Quiet = False,
    fail_on: Fail = FailOn.WARNING,
    wait: Wait = 5.0,
    junit: Junit = "",
) -> None:
    """Print the verdict on RUN in one line. The exit code states the verdict, for use in CI.

    0 healthy, 1 findings at or above --fail-on, 2 wrong usage, 3 collector unreachable,
    4 too early, 5 blind (rules could not run), 6 the run failed.
    """
    source = collector_of(collector)
    run = guarded(lambda: source.id_of(run))
    diagnosis = _diagnosis(source, run, wait)
    if junit:
        _write_junit(junit, diagnosis, fail_on, quiet=quiet)
    if as_json:
        show_json(diagnosis, quiet)
    elif not quiet:
        from trainvitals.report import line

        typer.echo(line(diagnosis, name=_name(source, run)))
    raise typer.Exit(exit_code(diagnosis, fail_on))


def exit_code(diagnosis: Diagnosis, fail_on: FailOn) -> int:
    """Return the exit code of a diagnosis, from the module's table; 0 with --fail-on never."""
    from trainvitals.api.schema import Severity, Verdict

    if fail_on is FailOn.NEVER:
        return 0
    if diagnosis.verdict is Verdict.FAILED:
        return FAILED
    limit = Severity(fail_on.value).rank
    if any(f.severity.rank >= limit for f in diagnosis.open):
        return FINDINGS
    return {Verdict.BLIND: BLIND, Verdict.TOO_EARLY: TOO_EARLY}.get(diagnosis.verdict, 0)


def _name(source: Client, run: str) -> str:
    return guarded(lambda: source.run(run)).name


def _diagnosis(source: Client, run: str, wait_s: float) -> Diagnosis:
    """Return the diagnosis; without a diagnosis after `wait_s`, exit with UNREACHABLE.

    A run that is not diagnosed yet must not pass as healthy.
    """
    from trainvitals.remote import diagnosis_of

    deadline = time.monotonic() + wait_s
    while True:
        diagnosis = guarded(lambda: diagnosis_of(source, run))
        if diagnosis is not None:
            return diagnosis
        if time.monotonic() >= deadline:
            end(UNREACHABLE, f"{source.url} has not diagnosed the run {run!r} yet.")
        time.sleep(0.2)


def guarded(call: Callable[[], T]) -> T:
    """Return the result of `call`; exit when the collector refuses or cannot be reached."""
    try:
        return call()
    except Unreachable as error:
        end(UNREACHABLE, f"{error}. To find the cause, run `trainvitals doctor`.")
    except Refused as refused:
        hint = ""
        if refused.reason in ("unauthorised", "forbidden"):
            hint = (
                " The command needs a token with the scope read, in TRAINVITALS_TOKEN or in a "
                "token file."
            )
        end(USAGE, f"{refused}{hint}")


def show_json(diagnosis: Diagnosis, quiet: bool) -> None:
    if quiet:
        return
    from trainvitals.report import as_json

    typer.echo(as_json(diagnosis))


def _write_junit(path: str, diagnosis: Diagnosis, fail_on: FailOn, *, quiet: bool) -> None:
    from trainvitals.api.schema import Severity
    from trainvitals.diagnosis.registry import all_rules
    from trainvitals.report.junit import as_junit

    limit = None if fail_on is FailOn.NEVER else Severity(fail_on.value)
    rules = [(rule.code, rule.name()) for rule in all_rules()]
    _write(as_junit(diagnosis, rules, limit), path, diagnosis.run, ".xml", quiet=quiet)


def write_page(path: str, diagnosis: Diagnosis, *, name: str, quiet: bool) -> None:
    """Write a diagnosis as an HTML page; exit with USAGE if the file cannot be written."""
    from trainvitals.report import as_html

    _write(as_html(diagnosis, name=name), path, diagnosis.run, ".html", quiet=quiet)


def _write(text: str, path: str, run: str, suffix: str, *, quiet: bool) -> None:
    from trainvitals.report.page_file import written

    try:
        file = written(text, path, run, suffix)
    except OSError as error:
        end(USAGE, f"The report is not written: {error}.")
    if not quiet:
        typer.echo(f"Report: {file}", err=True)


def terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((80, 24)).columns


def end(code: int, message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
