"""Return types and exceptions of the store."""

from __future__ import annotations

from typing import Literal

import msgspec

from trainvitals.api.schema import Run

Durability = Literal["full", "fast"]
"""full: a commit is synced to disk before it is confirmed. fast: it is synced some time later."""


class Ack(msgspec.Struct, frozen=True):
    """A batch is committed, with the durability of the database."""

    source: bytes
    seq: int
    stored: bool
    """False for a repeat of what was already stored."""
    records: int = 0
    """How many were stored now."""


class RequestRefused(Exception):  # noqa: N818 - an answer to a client
    """A request that the store refuses without changing anything. `reason` is a stable code."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Conflict(RequestRefused):
    """A batch whose key is used by another batch, or whose run is in another project."""


class QueueFull(RequestRefused):
    """The write queue is full; the client must send the batch again later."""

    def __init__(self, waiting_bytes: int, limit: int) -> None:
        super().__init__(
            f"{waiting_bytes} bytes wait to be written; the limit is {limit}. Send it again "
            "in a second.",
            reason="queue_full",
        )


class StoredRun(msgspec.Struct, frozen=True):
    """A run as in the API, with fields that only the collector needs."""

    pk: int
    changes: int
    """Grows with any change of the run's row."""
    run: Run


class Totals(msgspec.Struct, frozen=True):
    """How much is stored."""

    bytes: int
    """Of the database file, or of the Postgres database."""
    dropped: dict[str, int]
    """Records that trainers dropped, by reason."""
