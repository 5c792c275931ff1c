"""Create, check and revoke tokens: `tv_<scope>_<id>_<secret>`.

The secret has 256 random bits and is shown once; its SHA-256 is stored. A slow password hash is
not necessary, because a secret of this length cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from cachetools import LRUCache

from trainvitals_server.store.database import Database
from trainvitals_server.store.models import Token

_TOKEN_LENGTH_MAX = 200
_TOKENS_REMEMBERED = 1024
SHARED_S: Final = 1.0
"""Seconds for which a token is remembered where another process can revoke it: on Postgres, a query
for each request took more than half the time of storing a batch."""


class Scope(StrEnum):
    """What a token allows."""

    INGEST = "ingest"
    """Send batches."""
    READ = "read"
    """Read runs and /metrics."""
    ADMIN = "admin"
    """Everything."""

    def includes(self, wanted: Scope) -> bool:
        """Whether a token of this scope permits requests that require `wanted`."""
        return self is Scope.ADMIN or self is wanted


@dataclass(frozen=True)
class Granted:
    """The rights of a valid token."""

    id: str
    scope: Scope
    project: str | None
    """The only project it gives access to; None: all."""


class Known(NamedTuple):
    """What is stored about a token; times are seconds since the epoch."""

    id: str
    scope: str
    project: str | None
    label: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def state(self, now: float) -> str:
        """Return revoked, expired or valid."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"


class Tokens:
    """The tokens in a database."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._valid: LRUCache[bytes, tuple[Any, float]] = LRUCache(_TOKENS_REMEMBERED)
        """SHA-256 of a token → its row, and when it was read."""
        self._revocations = 0

    def create(
        self,
        scope: Scope,
        *,
        project: str | None = None,
        label: str = "",
        lifetime_s: float | None = None,
    ) -> str:
        """Create a token and return it. It cannot be shown again."""
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
        """Return what `token` grants; None when it is unknown, revoked, expired or malformed."""
        revocations, asked_at = self._revocations, self._clock()
        row = self._find(token)
        if row is None or self._has_ended(row):
            return None
        with self._lock:
            # A token that was revoked since the query must not be remembered.
            if revocations == self._revocations:
                self._valid[_digest(token)] = row, asked_at
        return _granted(row)

    def remembered(self, token: str) -> Granted | None:
        """Return what `token` grants, if an earlier `check` of it is still true; else None.

        Where another process can revoke it, a check is taken as true for SHARED_S.
        """
        with self._lock:
            row, asked_at = self._valid.get(_digest(token), (None, 0.0))
        is_recent = self._database.exclusive or 0 <= self._clock() - asked_at < SHARED_S
        return _granted(row) if row is not None and is_recent and not self._has_ended(row) else None

    def is_void(self, token: str) -> bool:
        """Whether `token` was created by this database and is now revoked or expired."""
        row = self._find(token)
        return row is not None and self._has_ended(row)

    def _find(self, token: str) -> Any:
        """Return the row of a token whose secret is right, or None."""
        words = token[:_TOKEN_LENGTH_MAX].split("_", 3)
        if len(words) != 4 or words[0] != "tv":
            return None
        _, scope, token_id, secret = words
        if not token_id.isalnum() or not token_id.isascii():
            return None
        with self._database.read() as connection:
            row = connection.execute(sa.select(Token).where(Token.id == token_id)).one_or_none()
        # Compare also for an unknown id: the response time must not reveal which ids exist.
        known = row.sha256 if row is not None else bytes(32)
        same = hmac.compare_digest(_digest(secret), known)
        return row if row is not None and same and row.scope == scope else None

    def _has_ended(self, row: Any) -> bool:
        expired = row.expires_at is not None and row.expires_at <= self._clock()
        return row.revoked_at is not None or expired

    def revoke(self, token_id: str) -> bool:
        """Revoke a token; return False when no valid token has this id."""
        change = (
            sa.update(Token)
            .where(Token.id == token_id, Token.revoked_at.is_(None))
            .values(revoked_at=self._clock())
        )
        revoked = self._database.write(lambda connection: connection.execute(change).rowcount) > 0
        with self._lock:
            self._revocations += 1
            self._valid.clear()
        return revoked

    def all(self) -> list[Known]:
        """Return every token, without its secret, oldest first."""
        columns = (
            Token.id,
            Token.scope,
            Token.project,
            Token.label,
            Token.created_at,
            Token.expires_at,
            Token.revoked_at,
        )
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*columns).order_by(Token.created_at, Token.id))
            return [Known(*row) for row in rows]


def _granted(row: Any) -> Granted:
    return Granted(row.id, Scope(row.scope), row.project)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
