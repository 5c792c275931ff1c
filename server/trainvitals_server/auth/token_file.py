"""The file with the collector's own admin token, from which programs on this machine read it.

The shared file (`$TRAINVITALS_HOME/token`, or TRAINVITALS_TOKEN_FILE) may also hold the token of
another collector. Such a token was shown once and cannot be recovered, so it is never overwritten:
the collector then writes its own token to a second file.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from sqlalchemy.engine import URL

from trainvitals_server.auth.tokens import Scope, Tokens


def ensure_token_file(tokens: Tokens, shared: Path, own: Path) -> Path:
    """Return a file with a valid admin token of this database; create the token if necessary.

    Returns `shared`, unless that holds a token of another database, a token of another scope, or
    cannot be read: then the file is left unchanged, and `own` is returned.
    """
    path = shared if _may_use(tokens, shared) else own
    granted = tokens.check(read_token(path) or "")
    if granted is None or granted.scope is not Scope.ADMIN:
        write_token(path, tokens.create(Scope.ADMIN, label="created at the first start"))
    return path


def own_token_file(database: URL, home: Path) -> Path:
    """Return the second file: beside a SQLite database, else in the home, named by the database."""
    if database.get_backend_name() == "sqlite":
        path = Path(database.database or "trainvitals.db").absolute()
        return path.with_name(f"{path.name}.token")
    name = f"{database.host or 'localhost'}-{database.port or 5432}-{database.database}"
    return home / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.token"


def _may_use(tokens: Tokens, path: Path) -> bool:
    """Whether the file has no token, or one of this database: an admin's, or one not valid any
    more."""
    text = read_token(path)
    if not text:
        return text == ""
    granted = tokens.check(text)
    if granted is not None:
        return granted.scope is Scope.ADMIN
    return tokens.is_void(text)


def read_token(path: Path) -> str | None:
    """Return the file's text, "" when it does not exist, None when it cannot be read."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        return None


def write_token(path: Path, token: str) -> None:
    """Replace the file in one step. Its mode is 0600 from the start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name: a fixed one, or one with the process id, may be left over from a killed start.
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
