"""What a page of the dashboard sends to the script of the board, read from an AppTest."""

from __future__ import annotations

import json
from typing import Any

from streamlit.testing.v1 import AppTest


def messages(app: AppTest) -> list[dict[str, Any]]:
    """Return the messages of the page, in order."""
    return [json.loads(e.proto.json or e.proto.mixed.json) for e in app.get("bidi_component")]


def charts(app: AppTest) -> dict[str, dict[str, Any]]:
    """Return key → what a board draws, for each chart of the page."""
    return {chart["key"]: chart for message in messages(app) for chart in message.get("charts", ())}


def codes(app: AppTest) -> list[str]:
    """Return the texts of the code blocks of the page, in order."""
    return [message["text"] for message in messages(app) if message.get("kind") == "code"]


def table(app: AppTest, label: str) -> list[dict[str, str]]:
    """Return the rows of a table of the page as title of the column → cell."""
    [found] = [m for m in messages(app) if m.get("kind") == "table" and m["label"] == label]
    titles = [column["title"] for column in found["columns"]]
    return [dict(zip(titles, map(_text, cells), strict=True)) for cells in found["rows"]]


def _text(cell: str | list[Any]) -> str:
    """Return the text of a cell, without its shade."""
    return cell if isinstance(cell, str) else str(cell[0])
