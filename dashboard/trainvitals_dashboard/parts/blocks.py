"""Code and tables, shown by the script of the chart board.

Comes in: texts of any content; the browser shows them as text, never as HTML.
Goes out: elements that a keyboard reaches; a table is a list of cards on a narrow screen.
Promise:  a first visit does not load what Streamlit needs for `st.code` (0.51 MB) and for
          `st.dataframe` (0.25 MB), which this module uses only where the script is missing.
Start at `code` and `rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import streamlit as st

from trainvitals_dashboard.figures.tables import table_message
from trainvitals_dashboard.parts import board


class Column(NamedTuple):
    """A column of a table; the cells of a curve are those of run_rows.spark_text."""

    title: str
    kind: Literal["text", "number", "curve"] = "text"


class Shaded(NamedTuple):
    """A cell with a background: `share` of the strongest shade, 0 to 1."""

    text: str
    share: float = 0.0


def code(key: str, text: str) -> None:
    """Show a text in a font of fixed width with a button that copies it.

    `key` is unique on the page. Long lines are wrapped; a copy has them whole.
    """
    if board.BUNDLE.exists():
        board.mount(key, {"kind": "code", "text": text})
    else:
        st.code(text, language=None, wrap_lines=True)


def rows(
    key: str,
    label: str,
    columns: Sequence[Column],
    cells: Sequence[Sequence[str | Shaded]],
    *,
    live: bool = False,
) -> None:
    """Show a table; on a narrow screen each row is a card, whose title is the first cell.

    `key` is unique on the page and `label` is the name for a screen reader. Each row has one cell
    per column, plain text. A reader asks for the rows after the first 100 with a button. A click on
    the name of a column sorts, and a button downloads all rows as CSV.

    `live`: the table is refreshed; an update has only some of the changed rows. The first cells
    are unique.
    """
    if board.BUNDLE.exists() and live:
        state = board.SENT + key
        heads = [c._asdict() for c in columns]
        sent = table_message(label, heads, cells, st.session_state.get(state))
        st.session_state[state] = sent
        board.mount(key, sent.message)
        return
    if board.BUNDLE.exists():
        shown = {"columns": [c._asdict() for c in columns], "rows": [list(line) for line in cells]}
        board.mount(key, {"kind": "table", "label": label, **shown})
        return
    texts = [(i, c.title) for i, c in enumerate(columns) if c.kind != "curve"]
    st.dataframe([{title: _text(line[i]) for i, title in texts} for line in cells], hide_index=True)


def _text(cell: str | Shaded) -> str:
    return cell if isinstance(cell, str) else cell.text
