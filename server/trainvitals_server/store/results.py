"""What the store answers, and how it says no."""

from __future__ import annotations

from typing import Any

import msgspec

from trainvitals.diagnosis.finding import Finding
from trainvitals.wire import Dropped, Event


class Ack(msgspec.Struct, frozen=True):
    """A batch is on disk: committed and synced."""

    source: bytes
    seq: int
    stored: bool
    """False for a repeat of what was already stored."""
    durability: str = "full"
    records: int = 0
    """How many were stored now."""


class Refused(Exception):  # noqa: N818 - an answer to a sender, not an error of ours
    """A batch that cannot be stored; nothing of it was. `reason` is a stable code."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Conflict(Refused):
    """A batch whose key or run is taken by something else."""


class QueueFull(Refused):
    """More batches wait for the disk than the queue may hold; to be sent again later."""

    def __init__(self, waiting_bytes: int, limit: int) -> None:
        super().__init__(
            f"{waiting_bytes} bytes wait to be written; the limit is {limit}. Send it again "
            "in a second.",
            reason="queue_full",
        )


class Counts(msgspec.Struct, frozen=True):
    """Open findings by severity."""

    error: int = 0
    warning: int = 0
    info: int = 0


class RunSummary(msgspec.Struct, frozen=True):
    """A run as the run list shows it. Times are seconds since the epoch."""

    pk: int
    id: str
    project: str
    name: str
    state: str
    """running | lost | finished | failed | stopped"""
    started_at: float
    last_report_at: float
    ended_at: float | None
    step: int
    """The last step seen; −1 before the first."""
    total_steps: int | None
    loss: float | None
    health: float | None
    """0 to 1; None before the first round."""
    headline: Finding | None
    counts: Counts
    sparkline: tuple[float | None, ...]
    """The loss's course, at most 60 numbers; None where it was not finite."""
    step_rate: float | None
    """Steps a second."""
    tags: tuple[str, ...]
    attempt: int
    """From 1."""
    host: str
    overhead: float | None
    """Capture's own cost as a share of step time."""
    changes: int
    """Grows with any change of this summary."""


class RunDetail(msgspec.Struct, frozen=True):
    """What else is known of a run."""

    config: dict[str, Any]
    git_commit: str
    argv: tuple[str, ...]
    versions: dict[str, str]
    pid: int
    facts: dict[str, str | float]
    dropped: tuple[Dropped, ...]
    not_watched: dict[str, str]
    events: tuple[Event, ...]


class Totals(msgspec.Struct, frozen=True):
    """How much is stored."""

    bytes: int
    """Of the database file, or of the Postgres database."""
    runs: int
    batches: int
    log_rows: int
    """Steps that wait to be sealed."""
    chunks: int
    dropped: dict[str, int]
    """Records that trainers could not keep, by reason."""
