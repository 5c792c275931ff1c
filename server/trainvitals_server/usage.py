"""What the collector's commands share: the settings, refusals, the option --database.

Exit codes: 0 success, 1 the command failed, 2 the command or a setting is not valid.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from trainvitals_server.settings import Settings

USAGE: Final = 2

DatabaseUrl = Annotated[
    str | None, typer.Option("--database", help="sqlite:///PATH or postgresql://USER@HOST/NAME.")
]


def settings_with(**given: Any) -> Settings:
    """Return the settings with the given options; exit when one is not valid."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        # Without the values: one of them may be a secret.
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        refuse(f"A setting is not valid: {problems}")
    except SettingsError as error:
        # The message names the setting; its cause, which contains the text, is not shown.
        refuse(f"A setting is not valid: {error}")


def refuse(message: str) -> NoReturn:
    """Print the message for people and exit."""
    typer.echo(message, err=True)
    raise typer.Exit(USAGE)
