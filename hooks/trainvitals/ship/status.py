"""What delivery says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShipStatus:
    """Counts are records unless the name says otherwise."""

    state: str = "idle"
    """idle | sending | away (nobody answers) | unauthorised | closed"""
    produced: int = 0
    acknowledged: int = 0
    waiting: int = 0
    """In the queue or on disk."""
    dropped: int = 0
    """Given up: by the spool's limit, lost with the disk, or refused for good by the collector."""
    batches_sent: int = 0
    errors: int = 0
    """Unexpected exceptions in the delivery's threads; each is logged, and the thread goes on."""
    last_error: str = ""
