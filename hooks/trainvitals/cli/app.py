"""The list of commands; each command is imported when it is called.

A command has a name, one line of help, and the location of its `register(app)`: a module of this
package, or an entry point of the group `trainvitals.commands` in an optional package.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from trainvitals.cli.version import show_version

GROUP = "trainvitals.commands"
USAGE = 2


class Command(NamedTuple):
    """The help and the location of a command."""

    help: str
    module: str = ""
    """Module below `trainvitals` that has `register(app)`."""
    extra: str = ""
    """The extra that installs what the command needs; without a module, also the name of its entry
    point."""


COMMANDS = {
    "demo": Command(
        "Train networks with and without faults and show each diagnosis.", "demo.command"
    ),
    "runs": Command("List the runs of a collector, or change one.", "cli.runs"),
    "top": Command("Show the runs of a collector live, the worst first.", "cli.top"),
    "export": Command("Write all values of a run as CSV, JSON lines or Parquet.", "cli.export"),
    "import": Command("Store the values of a file as a run.", "cli.import_"),
    "delete": Command("Delete a run from a collector.", "cli.delete"),
    "compare": Command("Show where two runs differ.", "cli.compare"),
    "report": Command("Show the full diagnosis of a run.", "cli.report"),
    "check": Command("Print the verdict on a run in one line, with an exit code.", "cli.report"),
    "run": Command("Run a training script and watch it, without changing the script.", "cli.run"),
    "checkup": Command("Check a model before it is trained.", "cli.checkup"),
    "replay": Command("Run a recorded step again and rank its samples.", "cli.replay"),
    "experiment": Command(
        "Compare initialisations, losses or learning rates by short trainings.", "cli.experiment"
    ),
    "rules": Command("List the rules, or show the page of one rule.", "cli.rules"),
    "up": Command("Run the collector and the dashboard on one port.", extra="server"),
    "serve": Command("Run the collector.", extra="server"),
    "dashboard": Command("Run only the dashboard.", extra="dashboard"),
    "silence": Command("Add, end and list silences of notifications.", "cli.silence"),
    "notify": Command("Test the notification channels.", extra="server"),
    "token": Command("Create, list and revoke the collector's tokens.", extra="server"),
    "db": Command("Back up, restore or upgrade the collector's database.", extra="server"),
    "mcp": Command("Serve the runs of a collector to agents, read-only.", "cli.mcp", "mcp"),
    "sync": Command("Deliver the batches that ended processes left in the spool.", "cli.sync"),
    "config": Command("Show the value and the origin of each setting.", "cli.config"),
    "doctor": Command(
        "Check the installation, the settings and the connection to the collector.", "cli.doctor"
    ),
    "version": Command("Print the version.", "cli.version"),
}


class LazyGroup(TyperGroup):
    """A command group that imports a command only when the command is called."""

    listing = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing them."""
        self.listing = True
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        """Return the command names in display order."""
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
    """Return the command from another installed package; None when no package has it."""
    known = {command.extra for command in COMMANDS.values()}
    for entry in entry_points(group=GROUP):
        if entry.name not in known:
            command = _built(entry.load(), name)
            if command is not None:
                return command
    return None


def _built(register: Callable[[typer.Typer], None], name: str) -> Any:
    """Return the command `name` that `register` adds; None when it adds no such command."""
    # With a callback, typer builds a group even for an app with a single command.
    app = typer.Typer(callback=lambda: None)
    register(app)
    group: Any = typer.main.get_group(app)
    return group.commands.get(name)


def _add_stub(app: typer.Typer, name: str, command: Command, missing: str = "") -> None:
    """Add a placeholder for a command that is not imported or cannot be imported."""

    @app.command(
        name,
        help=command.help,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    def stub(ctx: typer.Context) -> None:  # noqa: ARG001 - accepts all arguments
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
    epilog=(
        "Exit codes: 0 success or healthy, 1 findings at or above --fail-on, 2 wrong usage, "
        "3 the collector cannot be reached."
    ),
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Monitor PyTorch training runs and diagnose their faults."""
