"""`trainvitals export RUN`: all stored values of a run in a file.

Exit code 0, 2 for wrong usage or a file that cannot be written, 3 if the collector cannot be
reached.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trainvitals.api.client import Client
from trainvitals.api.schema import RunDetail
from trainvitals.cli.collector_of import collector_of
from trainvitals.cli.report import USAGE, Run, Url, end, guarded


class Format(StrEnum):
    """The format of the file."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


As = Annotated[Format, typer.Option("--format", help="Format of the file.")]
Output = Annotated[str, typer.Option("--output", "-o", help="File to write; -: stdout.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(command)


def command(run: Run, output: Output, as_: As = Format.CSV, collector: Url = None) -> None:
    """Write all values of RUN: one row for each stream, place, statistic and step.

    Values are the stored float32 numbers; NaN and infinities are kept.
    """
    from trainvitals.export import NotInstalled

    source = collector_of(collector)
    try:
        run = guarded(lambda: source.id_of(run))
        guarded(lambda: _write(source, run, output, as_))
        _note_thinned(guarded(lambda: source.run(run)))
    except NotInstalled as missing:
        end(USAGE, str(missing))
    except BrokenPipeError:  # the reader of stdout, such as head, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        end(USAGE, f"The file is not written: {error}.")


def _note_thinned(run: RunDetail) -> None:
    thinned = run.completeness.thinned
    if thinned:
        typer.echo(
            f"The file omits {thinned:,} rows that the collector has thinned to the minimum, "
            "mean, maximum and last value of 16 steps (its setting retain_stream_bytes).",
            err=True,
        )


def _write(source: Client, run: str, output: str, as_: Format) -> None:
    from trainvitals.export import WRITERS, pages

    write = WRITERS[as_]
    if output == "-":
        write(pages(source, run), sys.stdout.buffer)
        sys.stdout.flush()
        return
    path = Path(output).expanduser()
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            write(pages(source, run), file)
        part.replace(path)  # an export that fails leaves an existing file unchanged
    finally:
        part.unlink(missing_ok=True)
