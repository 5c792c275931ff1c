"""The command's frame: the list of commands, each loaded when it is called.

A command is a name, a line of help and where its `register(app)` is: a module of ours, or an
entry point of the group `trainvitals.commands`, which a package that may not be installed offers.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

GROUP = "trainvitals.commands"
USAGE = 2


class Command(NamedTuple):
    """Where a command comes from."""

    help: str
    module: str = ""
    """Of ours; it has `register(app)`."""
    extra: str = ""
    """Else: name of the entry point, and of the extra that brings it."""


COMMANDS = {
    "demo": Command("Train healthy and sick networks and show each diagnosis.", "demo.command"),
    "report": Command("Show the diagnosis of a run as a card.", "cli.report"),
    "check": Command("Say in one line how a run is, and fail on findings: for CI.", "cli.report"),
    "rules": Command("List the rules, or show a rule's page.", "cli.rules"),
    "up": Command("Run collector and dashboard on one port.", extra="server"),
    "serve": Command("Run the collector.", extra="server"),
    "dashboard": Command("Run the dashboard alone.", extra="dashboard"),
    "token": Command("Make, list and revoke the collector's tokens.", extra="server"),
    "db": Command("Bring the collector's database to this version.", extra="server"),
    "config": Command("Show each setting and where it comes from.", "cli.config"),
    "doctor": Command("Say what is installed, where data goes, and what is amiss.", "cli.doctor"),
    "version": Command("Print the version.", "cli.version"),
}


class LazyGroup(TyperGroup):
    """Knows the names of its commands, and loads one when it is called."""

    listing = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without loading any."""
        self.listing = True
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        """Return the names, in the order shown."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a command, or None for an unknown name."""
        command = COMMANDS.get(cmd_name)
        if command is None:
            return _of_others(cmd_name)
        if self.listing:
            return _built(lambda app: _add_stub(app, cmd_name, command), cmd_name)
        try:
            register = _register_of(command)
        except ImportError as error:
            missing = error.name or str(error)
            return _built(lambda app: _add_stub(app, cmd_name, command, missing), cmd_name)
        return _built(register, cmd_name)


def _register_of(command: Command) -> Callable[[typer.Typer], None]:
    if command.module:
        found: Callable[[typer.Typer], None] = import_module(
            f"trainvitals.{command.module}"
        ).register
        return found
    for entry in entry_points(group=GROUP, name=command.extra):
        loaded: Callable[[typer.Typer], None] = entry.load()
        return loaded
    raise ModuleNotFoundError(name=f"trainvitals[{command.extra}]")


def _of_others(name: str) -> Any:
    """Return the command of a package we do not know of; None when no package has it."""
    known = {command.extra for command in COMMANDS.values()}
    for entry in entry_points(group=GROUP):
        if entry.name not in known:
            command = _built(entry.load(), name)
            if command is not None:
                return command
    return None


def _built(register: Callable[[typer.Typer], None], name: str) -> Any:
    """Return the command called `name` of those that `register` adds; None without one."""
    # A callback makes a group of an app that has a single command.
    app = typer.Typer(callback=lambda: None)
    register(app)
    group: Any = typer.main.get_group(app)
    return group.commands.get(name)


def _add_stub(app: typer.Typer, name: str, command: Command, missing: str = "") -> None:
    """Add a command that stands for one that is not loaded, or cannot be."""

    @app.command(
        name,
        help=command.help,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    def stub(ctx: typer.Context) -> None:  # noqa: ARG001 - takes whatever was given
        extra = f"[{command.extra}]" if command.extra else ""
        typer.echo(
            f"`trainvitals {name}` needs {missing}, which cannot be imported: "
            f"pip install 'trainvitals{extra}'",
            err=True,
        )
        raise typer.Exit(USAGE)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would print tokens.
    pretty_exceptions_show_locals=False,
    help="The vital signs of PyTorch training runs, and the diagnosis.",
    epilog=(
        "Exit codes: 0 done or healthy, 1 findings at or over --fail-on, 2 usage, "
        "3 the collector cannot be reached."
    ),
)


@app.callback()
def _frame() -> None:
    pass
