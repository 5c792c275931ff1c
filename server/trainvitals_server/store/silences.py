"""Silences that users add while the collector runs: who, why, until when; added, ended, listed.

Comes in: patterns and reasons, from the API. Goes out: the active silences.
Promise:  a silence stays in the table for KEPT_S after its end, with the tokens that added and
          ended it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import sqlalchemy as sa

from trainvitals_server.store.models import SilenceRow
from trainvitals_server.store.types import RequestRefused

HELD_MAX: Final = 200
"""Maximum number of active silences: each is compared with every open finding, every 2 s."""
KEPT_S: Final = 90 * 86_400.0
"""How long the record of a silence is kept after its end."""


class Patterns(msgspec.Struct, frozen=True):
    """Shell patterns. A finding is silenced if each of the three has a pattern that matches it."""

    projects: tuple[str, ...]
    runs: tuple[str, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True)
class StoredSilence:
    """A silence of the database; times are seconds since the epoch."""

    pk: int
    patterns: Patterns
    reason: str
    created_at: float
    created_by: str
    """The id of a token."""
    until: float


_decoder = msgspec.msgpack.Decoder(Patterns)


def held(connection: sa.Connection, now: float) -> list[StoredSilence]:
    """Return the silences that are active at `now`, ordered by their end."""
    row = SilenceRow
    columns = (row.pk, row.patterns, row.reason, row.created_at, row.created_by, row.until)
    wanted = sa.select(*columns).where(*_holds(now)).order_by(row.until, row.pk)
    return [
        StoredSilence(pk, _decoder.decode(patterns), reason, created_at, created_by, until)
        for pk, patterns, reason, created_at, created_by, until in connection.execute(wanted)
    ]


def add(
    connection: sa.Connection,
    patterns: Patterns,
    *,
    reason: str,
    until: float,
    token: str,
    now: float,
) -> StoredSilence:
    """Store a silence and return it; remove records that are older than KEPT_S.

    Raises:
        RequestRefused: HELD_MAX silences are active (too_many_silences).
    """
    count = sa.select(sa.func.count()).select_from(SilenceRow).where(*_holds(now))
    if (connection.scalar(count) or 0) >= HELD_MAX:
        raise RequestRefused(
            f"{HELD_MAX} silences are active already. End one, or use a wider pattern.",
            reason="too_many_silences",
        )
    connection.execute(sa.delete(SilenceRow).where(SilenceRow.until < now - KEPT_S))
    values = {
        "patterns": msgspec.msgpack.encode(patterns),
        "reason": reason,
        "created_at": now,
        "created_by": token,
        "until": until,
    }
    made = sa.insert(SilenceRow).values(**values).returning(SilenceRow.pk)
    return StoredSilence(connection.execute(made).scalar_one(), patterns, reason, now, token, until)


def end(connection: sa.Connection, pk: int, *, token: str, now: float) -> bool:
    """End a silence; return False if it is not active."""
    ended = (
        sa.update(SilenceRow)
        .where(SilenceRow.pk == pk, *_holds(now))
        .values(ended_at=now, ended_by=token)
    )
    return connection.execute(ended).rowcount > 0


def _holds(now: float) -> tuple[sa.ColumnElement[bool], ...]:
    return SilenceRow.until > now, SilenceRow.ended_at.is_(None)
