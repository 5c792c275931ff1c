"""Text of strangers, made fit for a text column."""

from __future__ import annotations

TEXT_MAX = 256


def storable(text: str) -> str:
    """Return `text` as every engine stores it: no NUL (Postgres), not endless."""
    return text.replace("\x00", "\ufffd")[:TEXT_MAX]
