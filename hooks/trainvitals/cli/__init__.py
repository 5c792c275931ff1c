"""The `trainvitals` command.

Exit codes: 0 success or healthy, 1 findings at or above --fail-on, 2 wrong usage, 3 the collector
cannot be reached; `report` and `check` have more (see `report`). Results are written to stdout,
errors to stderr.
Start at `app.app`. A command is imported when it is called, so that `--help` is fast.
"""


def main() -> None:
    """Run the command-line interface."""
    from trainvitals.cli.app import app

    app(prog_name="trainvitals")
