"""`trainvitals import FILE...`: store the values of a file as a run.

Exit code 0, 1 if the collector refused a part of the file, 2 for wrong usage (a file that cannot be
read, a run that exists already, no permission), 3 if the collector cannot be reached.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainvitals.api.client import Client, Refused
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.export import Format
from trainvitals.cli.report import FINDINGS, UNREACHABLE, USAGE, Url, end, guarded
from trainvitals.config import load

if TYPE_CHECKING:
    from trainvitals.api.schema import RunDetail
    from trainvitals.imports.batches import Summary, Target
    from trainvitals.imports.sources import Opened

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The file to read.")]
Loss = Annotated[str, typer.Option(help="Name of the training loss (TensorBoard, W&B).")]
Name = Annotated[str, typer.Option("--run", help="Name of the new run; default: the file name.")]
Project = Annotated[str | None, typer.Option(help="Project of the new run.")]
Form = Annotated[Format | None, typer.Option("--format", help="Format; default: by the file name.")]
Wait = Annotated[float, typer.Option(min=0, help="Time to retry, in seconds.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import")(command)


def command(
    files: Files,
    run: Name = "",
    project: Project = None,
    form: Form = None,
    loss: Loss = "",
    wait: Wait = 30.0,
    collector: Url = None,
) -> None:
    """Store the values of FILE as a new run.

    Reads what `trainvitals export` writes (CSV, JSONL, Parquet), the scalars of TensorBoard's event
    files (all of one run together), and the history of an offline run of W&B (run-*.wandb). The
    file is checked to its end before anything is sent. The same file under the same name is stored
    once, however often it is sent. The token needs the scope admin.
    """
    from trainvitals.export import NotInstalled
    from trainvitals.imports.batches import Target, summary
    from trainvitals.imports.rows import BadFile
    from trainvitals.imports.sources import opened
    from trainvitals.wire import sanitise

    source = collector_of(collector)
    settings = load(collector=collector, project=project)
    try:
        content = opened([f.expanduser() for f in files], str(form) if form else "", loss)
        found = summary(content.pages())
    except (BadFile, NotInstalled, OSError) as error:
        end(USAGE, f"Nothing is imported. {error}")
    if not found.rows:
        end(USAGE, f"Nothing is imported. {files[0]} has no values.{_left_out(content)}")
    name = sanitise.name(run or _named(files[0]))
    target = Target(name, settings.project, content.digest, content.about)
    _check_new(source, target)
    _deliver(source, settings.read_token(), content, target, found, wait)
    typer.echo(
        f"{found.rows:,} values are stored as the run {name!r} of the project "
        f"{settings.project!r}: {', '.join(sorted(found.streams))}; steps {found.first_step:,} to "
        f"{found.last_step:,}.{_absent(found)}{_left_out(content)}"
    )


def _named(file: Path) -> str:
    """Return the name of a run: the file's, or that of the folder of an event file."""
    is_event = ".tfevents." in file.name
    return (file.resolve().parent.name if is_event else file.stem) or file.name


def _absent(found: Summary) -> str:
    if not found.absent:
        return ""
    return f" {found.absent:,} cells of the table of steps are empty (not measured)."


def _left_out(content: Opened) -> str:
    parts = [f"{count:,} {what}" for what, count in content.left_out.items() if count]
    return f" Not imported: {', '.join(parts)}." if parts else ""


def _check_new(source: Client, target: Target) -> None:
    """Exit if the run exists and was not imported from this file."""
    from trainvitals.imports.batches import IMPORT

    for name in (target.run, f"{target.project}::{target.run}"):
        known = guarded(partial(_known, source, name))
        if known is None:
            continue
        made = known.config.get(IMPORT)
        same = isinstance(made, dict) and made.get("sha256") == target.digest
        if known.project == target.project and not same:
            end(
                USAGE,
                f"Nothing is imported. The run {target.run!r} exists already; give the new one "
                "another name: --run NAME.",
            )


def _known(source: Client, run: str) -> RunDetail | None:
    try:
        return source.run(run)
    except Refused as refused:
        if refused.reason == "unknown_run":
            return None
        raise


def _deliver(
    source: Client, token: str, content: Opened, target: Target, found: Summary, wait: float
) -> None:
    from trainvitals.imports.delivery import NotDelivered, deliver
    from trainvitals.imports.rows import BadFile
    from trainvitals.ship.http import parse_url

    try:
        deliver(content.pages, target, found, parse_url(source.url), token, wait_s=wait)
    except NotDelivered as stopped:
        end(
            FINDINGS if stopped.refused else UNREACHABLE,
            f"{stopped.rows:,} of {found.rows + found.absent:,} values are stored in the run "
            f"{target.run!r}, which is not complete: {stopped}. The same command continues.",
        )
    except (BadFile, OSError) as error:
        end(FINDINGS, f"A part of the file is stored in the run {target.run!r}. {error}")
