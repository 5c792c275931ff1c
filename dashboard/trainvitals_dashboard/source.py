"""Where the collector is, and what opens it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8321"


@dataclass(frozen=True)
class Source:
    """One collector, for all who open the dashboard."""

    url: str
    token_file: Path
    token_given: str = field(default="", repr=False)
    """From TRAINVITALS_TOKEN; counts more than the file."""
    asks: bool = False
    """Each visitor types a token of their own: for addresses that others can reach."""

    def token(self) -> str:
        """Return the token as it is now, "" when there is none: a new one needs no restart."""
        if self.token_given:
            return self.token_given
        try:
            return self.token_file.read_text().strip()
        except OSError:
            # The collector answers 401, and the page then names the file.
            return ""


def from_environment(
    url: str | None = None, token_file: Path | None = None, *, asks: bool = False
) -> Source:
    """Return what the arguments say, then TRAINVITALS_*, then the defaults."""
    home = Path(os.environ.get("TRAINVITALS_HOME", "~/.trainvitals")).expanduser()
    named = os.environ.get("TRAINVITALS_TOKEN_FILE")
    return Source(
        (url or os.environ.get("TRAINVITALS_COLLECTOR") or DEFAULT_URL).rstrip("/"),
        token_file or (Path(named).expanduser() if named else home / "token"),
        # A token file that is given belongs to the collector that is given.
        "" if token_file else os.environ.get("TRAINVITALS_TOKEN", ""),
        asks,
    )


_chosen: list[Source] = []


def choose(source: Source) -> None:
    """Show this collector, in this process, from now on."""
    _chosen[:] = [source]


def chosen() -> Source:
    """Return the collector that is shown."""
    return _chosen[0] if _chosen else from_environment()
