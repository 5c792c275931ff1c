"""Messages to a table that is refreshed: all rows once, then some changed rows at a time.

Comes in: the texts of the cells. Goes out: numbered messages, as those of updates.py.
Promise:  an update has at most LIVE_BYTES of rows, for any number of rows; rows take turns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainvitals_dashboard.figures.updates import next_number

LIVE_BYTES = 1_200
"""Of the changed rows of an update. Streamlit adds 2.4 KB."""


@dataclass
class TableSent:
    """What the browser has: the last message, all rows, and the row whose turn is next."""

    message: dict[str, Any]
    head: Any
    rows: list[list[Any]]
    turn: int = 0


def table_message(
    label: str,
    columns: Sequence[dict[str, Any]],
    rows: Sequence[Sequence[Any]],
    sent: TableSent | None,
) -> TableSent:
    """Return the next message; rows are known by their first cells, which are unique.

    The rows keep the order of the first message. A row that came or went makes a whole message.
    """
    by_name = {line[0]: list(line) for line in rows}
    head = (label, tuple(str(column) for column in columns), frozenset(by_name))
    if sent is None or sent.head != head:
        table = {"label": label, "columns": list(columns), "rows": list(by_name.values())}
        whole = {"kind": "table", "seq": next_number(), "base": None, **table}
        return TableSent(whole, head, list(by_name.values()))
    changed: dict[int, list[Any]] = {}
    size, count = 0, len(sent.rows)
    for i in [(sent.turn + k) % count for k in range(count)]:
        new = by_name[sent.rows[i][0]]
        if new == sent.rows[i]:
            continue
        size += len(json.dumps(new)) + 8
        if changed and size > LIVE_BYTES:
            break
        changed[i] = sent.rows[i] = new
        sent.turn = i + 1
    if changed:
        base = sent.message["seq"]
        sent.message = {"kind": "table", "seq": next_number(), "base": base, "changed": changed}
    return sent
