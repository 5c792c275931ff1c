"""The `trainvitals` command.

Exit codes: 0 done or healthy, 1 findings at or over --fail-on, 2 usage, 3 the collector cannot be
reached. What a script reads goes to stdout, what a person reads besides goes to stderr.
Start at `app.app`: commands are loaded when they are called, so that `--help` is quick.
"""


def main() -> None:
    """Run the command line."""
    from trainvitals.cli.app import app

    app(prog_name="trainvitals")
