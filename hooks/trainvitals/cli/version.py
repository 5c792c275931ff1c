"""`trainvitals version` and `trainvitals --version`."""

from __future__ import annotations

from importlib.metadata import version as version_of

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("version")(version)


def version() -> None:
    """Print the version."""
    typer.echo(version_of("trainvitals"))


def show_version(wanted: bool) -> None:
    """Print the version and exit if the option was given."""
    if wanted:
        version()
        raise typer.Exit
