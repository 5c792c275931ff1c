"""Sanitise text and structures from clients before they are stored or shown."""

from __future__ import annotations

from typing import Any

TEXT_MAX = 256


def storable(text: str) -> str:
    """Return `text` without NUL, which Postgres rejects, cut to TEXT_MAX characters."""
    return text.replace("\x00", "\ufffd")[:TEXT_MAX]


def plain(value: Any, depth: int = 0) -> Any:
    """Return a user's structure as JSON types; a value of any other type becomes text."""
    if depth > 32:
        return "…"
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return str(value)
