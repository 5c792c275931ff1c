"""`trainvitals version` and `trainvitals --version`."""

from __future__ import annotations

import json
from importlib.metadata import version as version_of
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("version")(version)


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print the version as JSON.")] = False,
) -> None:
    """Print the version."""
    found = version_of("trainvitals")
    typer.echo(json.dumps({"version": found}) if as_json else found)


def show_version(wanted: bool) -> None:
    """Print the version and exit if the option was given."""
    if wanted:
        version()
        raise typer.Exit
