"""The address of the collector that is shown, and the token to read from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8321"


@dataclass(frozen=True)
class CollectorAccess:
    """The collector that this dashboard shows."""

    url: str
    token_file: Path
    token_given: str = field(default="", repr=False)
    """From TRAINVITALS_TOKEN; takes precedence over the file."""
    asks: bool = False
    """Each visitor must enter a token; used if other machines can reach the dashboard."""

    def token(self) -> str:
        """Return the current token, "" if there is none. Each call reads the file again."""
        if self.token_given:
            return self.token_given
        try:
            return self.token_file.read_text().strip()
        except OSError:
            # The collector answers 401, and the page shows the path of the file.
            return ""


def from_environment(
    url: str | None = None, token_file: Path | None = None, *, asks: bool = False
) -> CollectorAccess:
    """Return the values of the arguments, else of the variables TRAINVITALS_*, else the
    defaults."""
    home = Path(os.environ.get("TRAINVITALS_HOME", "~/.trainvitals")).expanduser()
    named = os.environ.get("TRAINVITALS_TOKEN_FILE")
    return CollectorAccess(
        (url or os.environ.get("TRAINVITALS_COLLECTOR") or DEFAULT_URL).rstrip("/"),
        token_file or (Path(named).expanduser() if named else home / "token"),
        # An explicit token file belongs to the explicit collector.
        "" if token_file else os.environ.get("TRAINVITALS_TOKEN", ""),
        asks,
    )


_chosen: list[CollectorAccess] = []


def choose(access: CollectorAccess) -> None:
    """Set the collector that this process shows."""
    _chosen[:] = [access]


def chosen() -> CollectorAccess:
    """Return the collector that is shown."""
    return _chosen[0] if _chosen else from_environment()
