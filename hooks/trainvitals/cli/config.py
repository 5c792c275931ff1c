"""`trainvitals config show`: the value and the origin of each setting of a training process."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Annotated

import typer

from trainvitals.config import ClientSettings, load


def register(app: typer.Typer) -> None:
    """Add the command."""
    group = typer.Typer(no_args_is_help=True, callback=lambda: None)
    group.command("show")(show)
    app.add_typer(group, name="config", help="The settings of a training process.")


def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the value and the origin of each setting. Argument > environment > file > default."""
    settings = load()
    names = [f.name for f in fields(ClientSettings) if f.name != "origins"]
    rows = [(name, shown(settings, name), settings.origins[name]) for name in names]
    if as_json:
        described = {name: {"value": value, "origin": origin} for name, value, origin in rows}
        typer.echo(json.dumps(described, indent=2))
        return
    name_width = max(map(len, names))
    width = max(len(value) for _, value, _ in rows)
    for name, value, origin in rows:
        typer.echo(f"{name:<{name_width}} {value:<{width}}  {origin}")


def shown(settings: ClientSettings, name: str) -> str:
    """Return a setting's value as text; for the token, only whether it is set."""
    value = getattr(settings, name)
    if name == "token":
        return "(set, not shown)" if value else ""
    return str(value)
