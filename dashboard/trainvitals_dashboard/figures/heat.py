"""Messages to the heat-map of a board: the cells of the visible modules and tensors.

Comes in: a function that requests heat maps, the tree of places, the rows that the browser shows.
Goes out: numbered messages (see updates.py); dashboard/board/src/heat.js reads them.
Promise:  a continuation has at most LIVE_CELLS cells or one column, for a run of any length (4 KB
          with what Streamlit adds);
          a row that is not visible is not requested.
Start at `heat_message`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.api.schema import Heatmap
from trainvitals_dashboard.figures import charts
from trainvitals_dashboard.figures.charts import Part
from trainvitals_dashboard.figures.curves import LOG_FROM, StepRange
from trainvitals_dashboard.figures.tree import Tree, tree_of
from trainvitals_dashboard.figures.updates import next_number
from trainvitals_dashboard.wording import clean

KEY = "heat"
COLUMNS = 200
COLUMNS_MAX = 400
"""With more columns than this after live updates, all columns are sent anew."""
LIVE_CELLS = 180
ROWS_AT_ONCE = 200
"""The API sends at most this many rows in one request."""
FIRST_ROWS = 60
"""At most this many rows are sent before the browser has said which are visible."""

Ask = Callable[[Sequence[str] | None, int | None, int | None, int], Heatmap]
"""Places and modules (None: the blocks), first and last step (None: no limit), and columns to a
heat map. A module has a dot at its end. Cells with a value that is not finite are in its field
`nonfinite`."""


@dataclass(frozen=True)
class HeatRows:
    """The rows of a heat-map: the places of a layout in a tree of modules."""

    title: str
    unit: str
    """What a place is: tensors or modules."""
    tree: Tree
    signs: Mapping[str, str]
    """Place → severity of its worst open finding."""
    merged: str = "median"
    """What the value of a group is: the median or the largest of its places."""

    @classmethod
    def of(
        cls,
        title: str,
        places: Sequence[str],
        signs: Mapping[str, str],
        unit: str = "tensors",
        merged: str = "median",
    ) -> HeatRows:
        """Return the rows of places in order of depth."""
        return cls(title, unit, tree_of(places), signs, merged)


@dataclass(frozen=True)
class Opened:
    """What a visitor has opened, as in the URL."""

    groups: str | None = None
    """As in `Tree.opened`."""
    filter: str = ""


@dataclass
class HeatSent:
    """What the browser has."""

    shape: Any
    message: Part
    until: int
    """Last step of the request whose columns it has."""
    extremes: list[float | None]
    """Smallest value, largest value and smallest value above 0."""
    steps: list[int] = field(default_factory=list)
    last_steps: list[int] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    """Ids of the rows whose cells it has."""


def heat_message(
    rows: HeatRows,
    ask: Ask,
    *,
    newest: int,
    shown: StepRange,
    visible: Sequence[str],
    here: str,
    sent: HeatSent | None,
    opened: Opened = Opened(),
) -> HeatSent:
    """Return the next message and what the browser has after it.

    `newest` is the newest step of the run, `visible` the ids of the rows that the browser shows,
    `here` the selected place. `sent` is the last result, None if the browser has nothing; then the
    message contains what is `opened`. Without new data, the message is an empty continuation.
    """
    # The address or a changed layout may name rows that do not exist.
    wanted = [row for row in dict.fromkeys(visible) if rows.tree.name_of(row)][:ROWS_AT_ONCE]
    shape = (rows.title, shown, tuple(rows.tree.places), tuple(sorted(rows.signs.items())))
    if sent is None or sent.shape != shape or not _grow(sent, rows, ask, newest, shown, wanted):
        return _whole(rows, ask, newest, shown, wanted, here, opened, shape)
    return sent


def _whole(
    rows: HeatRows,
    ask: Ask,
    newest: int,
    shown: StepRange,
    wanted: list[str],
    here: str,
    opened: Opened,
    shape: Any,
) -> HeatSent:
    until = newest if shown.last is None else shown.last
    tree = rows.tree
    groups = tree.opened(opened.groups, here)
    wanted = wanted or tree.first_rows(groups, here, FIRST_ROWS)
    # The columns, the extremes of all places, and the rows of those groups that are blocks.
    by_block = ask(None, shown.first, until, COLUMNS)
    blocks = tree.blocks()
    known = [row for row in wanted if row in blocks]
    rest = [row for row in wanted if row not in blocks]
    parts = [cells_of(by_block, [blocks[row] for row in known])]
    try:
        parts += _cells(rows, rest, ask, shown.first, until, COLUMNS, by_block.steps)
    except Unlike:
        rest = []  # the browser asks for them
    wanted = known + rest
    everything = shown.first is None and shown.last is None
    extremes = [by_block.low, by_block.high, by_block.least_positive]
    message = {
        "seq": next_number(),
        "base": None,
        "range": None if everything else [shown.first or 0, shown.last],
        "full": [0, max(newest, 1)],
        "colours": charts.colours(),
        "charts": [
            {
                "kind": "heat",
                "key": KEY,
                "title": clean(rows.title),
                "unit": rows.unit,
                "alt": f"Heat-map of {clean(rows.title)} over steps, first layer at the top",
                "log": _is_log(by_block),
                "extremes": extremes,
                "rows": tree.described(rows.signs),
                "merged": rows.merged,
                "open": groups,
                "given": opened.groups is not None,
                "filter": opened.filter,
                "here": tree.places.index(here) if here in tree.places else None,
                "points": {
                    "steps": by_block.steps,
                    "last": by_block.last_steps,
                    "ids": wanted,
                    "cells": packed(parts),
                },
            }
        ],
    }
    steps, last = list(by_block.steps), list(by_block.last_steps)
    return HeatSent(shape, message, until, extremes, steps, last, wanted)


def _grow(
    sent: HeatSent,
    rows: HeatRows,
    ask: Ask,
    newest: int,
    shown: StepRange,
    wanted: list[str],
) -> bool:
    """Add the new cells to `sent`; return False if the browser needs all columns again."""
    wanted = wanted or sent.rows
    points: Part | None
    try:
        if any(row not in sent.rows for row in wanted):
            points = _more_rows(sent, rows, ask, shown, wanted)
        else:
            points = _more_columns(sent, rows, ask, newest, shown, wanted)
    except Unlike:
        return False
    base = sent.message["seq"]
    sent.message = {
        "seq": next_number() if points else base,
        "base": base,
        "full": [0, max(newest, 1)],
        "charts": [{"key": KEY, "points": points}] if points else [],
    }
    return True


def _more_rows(
    sent: HeatSent, rows: HeatRows, ask: Ask, shown: StepRange, wanted: list[str]
) -> Part:
    new = [row for row in wanted if row not in sent.rows]
    parts = _cells(rows, new, ask, shown.first, sent.until, COLUMNS, sent.steps)
    sent.rows = [*sent.rows, *new]
    return {"ids": new, "cells": packed(parts)}


def _more_columns(
    sent: HeatSent,
    rows: HeatRows,
    ask: Ask,
    newest: int,
    shown: StepRange,
    wanted: list[str],
) -> Part | None:
    first = sent.last_steps[-1] + 1 if sent.last_steps else shown.first or 0
    until = newest if shown.last is None else min(shown.last, newest)
    if first > until:
        return None
    count = max(1, LIVE_CELLS // max(1, len(wanted)))
    fresh = ask(None, first, until, count)
    if not fresh.steps:
        return None
    if not sent.steps or len(sent.steps) + len(fresh.steps) > COLUMNS_MAX:
        raise Unlike
    cells = _cells(rows, wanted, ask, first, until, count, fresh.steps)
    sent.steps += fresh.steps
    sent.last_steps += fresh.last_steps
    sent.rows = list(wanted)
    sent.extremes = [
        _chosen(choose, old, new)
        for choose, old, new in zip(
            (min, max, min),
            sent.extremes,
            (fresh.low, fresh.high, fresh.least_positive),
            strict=True,
        )
    ]
    return {
        "extremes": sent.extremes,
        "steps": fresh.steps,
        "last": fresh.last_steps,
        "ids": wanted,
        "cells": packed(cells),
    }


def _chosen(
    choose: Callable[[float, float], float], old: float | None, new: float | None
) -> float | None:
    return new if old is None else old if new is None else choose(old, new)


class Unlike(Exception):  # noqa: N818 - not an error: the run went on between two requests
    """The columns of two heat maps of the same range differ."""


def _cells(
    rows: HeatRows,
    wanted: Sequence[str],
    ask: Ask,
    first: int | None,
    last: int | None,
    columns: int,
    steps: list[int],
) -> list[npt.NDArray[np.float32]]:
    names = [name for row in wanted if (name := rows.tree.name_of(row)) is not None]
    if not names:
        return []
    found = ask(names, first, last, columns)
    if found.steps != steps:
        raise Unlike
    return [cells_of(found, names)]


def cells_of(data: Heatmap, rows: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return float32 cells, shape (rows, columns): NaN is not measured, ∞ is not finite."""
    cells = np.full((len(rows), len(data.steps)), np.nan, np.float32)
    at = {name: i for i, name in enumerate(data.places)}
    for row, name in enumerate(rows):
        if (i := at.get(name)) is None:
            continue
        cells[row] = [np.nan if v is None else v for v in data.values[i]]
        if i < len(data.nonfinite):
            cells[row, data.nonfinite[i]] = np.inf
    return cells


def packed(parts: Sequence[npt.NDArray[np.float32]]) -> str:
    """Return the cells as base64 of little-endian float32, row after row."""
    return base64.b64encode(b"".join(part.astype("<f4").tobytes() for part in parts)).decode()


def _is_log(data: Heatmap) -> bool:
    low, high, positive = data.low, data.high, data.least_positive
    return (
        low is not None
        and low >= 0
        and high is not None
        and positive is not None
        and high / positive > LOG_FROM
    )
