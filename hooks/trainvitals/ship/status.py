"""The state and the counts of delivery."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShipStatus:
    """The state and the counts of one run's delivery; counts without a unit are records."""

    state: str = "idle"
    """idle | sending | away (the collector does not answer) | unauthorised | closed"""
    produced: int = 0
    acknowledged: int = 0
    waiting: int = 0
    """In the buffer or on disk."""
    dropped: int = 0
    """Dropped because of the spool's limit, a disk error, or a rejection by the collector."""

    errors: int = 0
    """Unexpected exceptions in the threads; each is logged, and the thread continues."""
    last_error: str = ""
