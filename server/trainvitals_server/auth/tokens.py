"""Make, check and revoke tokens: `tv_<scope>_<id>_<secret>`.

The secret has 256 bits and is shown once; its SHA-256 is stored. No slow hash: what cannot be
guessed need not be stretched.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from trainvitals_server.store.database import Database
from trainvitals_server.store.models import Token

_TOKEN_LENGTH_MAX = 200


class Scope(StrEnum):
    """What a token opens."""

    INGEST = "ingest"
    """Send batches."""
    READ = "read"
    """Look at runs, and /metrics."""
    ADMIN = "admin"
    """Everything."""

    def opens(self, wanted: Scope) -> bool:
        """Whether a token of this scope may do what needs `wanted`."""
        return self is Scope.ADMIN or self is wanted


@dataclass(frozen=True)
class Granted:
    """A token that was recognised."""

    id: str
    scope: Scope
    project: str | None
    """The only project it opens; None: all."""


class Tokens:
    """The tokens in a database."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def create(
        self,
        scope: Scope,
        *,
        project: str | None = None,
        label: str = "",
        lifetime_s: float | None = None,
    ) -> str:
        """Make a token and return it. It cannot be shown again."""
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        now = self._clock()
        row = sa.insert(Token).values(
            id=token_id,
            scope=str(scope),
            project=project,
            sha256=_digest(secret),
            label=label,
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
        )
        self._database.write(lambda connection: connection.execute(row))
        return f"tv_{scope}_{token_id}_{secret}"

    def check(self, token: str) -> Granted | None:
        """Return what `token` grants; None when it is unknown, revoked, expired or no token."""
        words = token[:_TOKEN_LENGTH_MAX].split("_", 3)
        if len(words) != 4 or words[0] != "tv":
            return None
        _, scope, token_id, secret = words
        if not token_id.isalnum() or not token_id.isascii():
            return None
        with self._database.read() as connection:
            row = connection.execute(sa.select(Token).where(Token.id == token_id)).one_or_none()
        # Compare in any case: how long the answer takes says nothing about which ids exist.
        known = row.sha256 if row is not None else bytes(32)
        same = hmac.compare_digest(_digest(secret), known)
        if row is None or not same or row.scope != scope or row.revoked_at is not None:
            return None
        if row.expires_at is not None and row.expires_at <= self._clock():
            return None
        return Granted(row.id, Scope(row.scope), row.project)

    def revoke(self, token_id: str) -> bool:
        """Make a token worthless from now on; return False when there is none with this id."""
        change = (
            sa.update(Token)
            .where(Token.id == token_id, Token.revoked_at.is_(None))
            .values(revoked_at=self._clock())
        )
        return self._database.write(lambda connection: connection.execute(change).rowcount) > 0

    def all(self) -> list[sa.Row[tuple[str, str, str | None, str, float, float | None]]]:
        """Return id, scope, project, label, created_at and revoked_at of every token."""
        columns = (
            Token.id,
            Token.scope,
            Token.project,
            Token.label,
            Token.created_at,
            Token.revoked_at,
        )
        with self._database.read() as connection:
            return list(connection.execute(sa.select(*columns).order_by(Token.created_at)))

    def ensure_first(self, path: Path) -> bool:
        """Write an admin token to `path`, unless the one there is good; return whether it was made.

        The file is made with mode 0600 and never widened.
        """
        if path.exists():
            granted = self.check(path.read_text().strip())
            if granted is not None and granted.scope is Scope.ADMIN:
                return False
        path.parent.mkdir(parents=True, exist_ok=True)
        token = self.create(Scope.ADMIN, label="made at the first start")
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        fresh.replace(path)
        return True


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
