"""Messages to the heat-map of a board: the cells of the blocks and of the visible tensors.

Comes in: a function that requests heat maps, the places by block, the places that the browser
          shows.
Goes out: numbered messages (see updates.py); dashboard/board/src/heat.js reads them.
Promise:  a continuation has at most LIVE_CELLS cells or one column (4 KB), for a run of any length;
          a place that is not visible is not requested.
Start at `heat_message`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.api.blocks import blocks_of
from trainvitals.api.schema import Heatmap
from trainvitals_dashboard.figures import charts
from trainvitals_dashboard.figures.charts import Part
from trainvitals_dashboard.figures.curves import LOG_FROM, StepRange
from trainvitals_dashboard.figures.updates import next_number
from trainvitals_dashboard.wording import SEVERITIES, clean

KEY = "heat"
COLUMNS = 200
COLUMNS_MAX = 400
"""With more columns than this after live updates, all columns are sent anew."""
LIVE_CELLS = 480
ROWS_AT_ONCE = 200
"""The API sends at most this many places in one request."""
OPEN_MAX = 60
"""Up to this many places are all shown at first; as in dashboard/board/src/heatrows.js."""

Ask = Callable[[Sequence[str] | None, int | None, int | None, int], Heatmap]
"""Places (None: the blocks), first and last step (None: no limit), and columns to a heat map. Cells
with a value that is not finite are in its field `nonfinite`."""


@dataclass(frozen=True)
class HeatRows:
    """The rows of a heat-map: the places of a layout by block."""

    title: str
    unit: str
    """What a place is: tensors or modules."""
    blocks: dict[str, list[str]]
    signs: Mapping[str, str]
    """Place → severity of its worst open finding."""

    @classmethod
    def of(
        cls, title: str, places: Sequence[str], signs: Mapping[str, str], unit: str = "tensors"
    ) -> HeatRows:
        """Return the rows of places in order of depth."""
        return cls(title, unit, blocks_of(places), signs)

    @property
    def names(self) -> list[str]:
        """Return the places in the order of the rows; the index is the number of the place."""
        return [name for members in self.blocks.values() for name in members]

    def described(self) -> list[Part]:
        """Return the blocks as the browser reads them."""
        return [
            {
                "name": clean(block),
                "sign": _worst([self.signs.get(m, "") for m in members]),
                "places": [[clean(_within(block, m)), self.signs.get(m, "")] for m in members],
            }
            for block, members in self.blocks.items()
        ]


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
    places: list[int] = field(default_factory=list)
    """Numbers of the places whose cells it has."""


def heat_message(
    rows: HeatRows,
    ask: Ask,
    *,
    newest: int,
    shown: StepRange,
    visible: Sequence[int],
    here: str,
    sent: HeatSent | None,
) -> HeatSent:
    """Return the next message and what the browser has after it.

    `newest` is the newest step of the run, `visible` the numbers of the places that the browser
    shows, `here` the selected place. `sent` is the last result, None if the browser has nothing.
    Without new data, the message is an empty continuation.
    """
    names = rows.names
    # The address or a changed layout may name places that do not exist.
    wanted = [i for i in dict.fromkeys(visible) if 0 <= i < len(names)][:ROWS_AT_ONCE]
    shape = (rows.title, shown, tuple(names), tuple(sorted(rows.signs.items())))
    if (
        sent is None
        or sent.shape != shape
        or not _grow(sent, rows, names, ask, newest, shown, wanted)
    ):
        number = names.index(here) if here in names else None
        if len(names) <= OPEN_MAX:
            wanted = list(range(len(names)))
        elif number is not None and not wanted:
            wanted = [i for i, n in enumerate(names) if n in _beside(rows, here)][:ROWS_AT_ONCE]
        return _whole(rows, names, ask, newest, shown, wanted, number, shape)
    return sent


def _beside(rows: HeatRows, here: str) -> set[str]:
    return next((set(m) for m in rows.blocks.values() if here in m), set())


def _whole(
    rows: HeatRows,
    names: list[str],
    ask: Ask,
    newest: int,
    shown: StepRange,
    wanted: list[int],
    here: int | None,
    shape: Any,
) -> HeatSent:
    until = newest if shown.last is None else shown.last
    by_block = ask(None, shown.first, until, COLUMNS)
    parts = [cells_of(by_block, list(rows.blocks))]
    try:
        parts += _places(names, wanted, ask, shown.first, until, COLUMNS, by_block.steps)
    except Unlike:
        wanted = []  # the browser asks for them
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
                "blocks": rows.described(),
                "here": here,
                "points": {
                    "steps": by_block.steps,
                    "last": by_block.last_steps,
                    "ids": _ids(len(rows.blocks), wanted),
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
    names: list[str],
    ask: Ask,
    newest: int,
    shown: StepRange,
    wanted: list[int],
) -> bool:
    """Add the new cells to `sent`; return False if the browser needs all columns again."""
    wanted = wanted or sent.places
    points: Part | None
    try:
        if any(i not in sent.places for i in wanted):
            points = _more_places(sent, names, ask, shown, wanted)
        else:
            points = _more_columns(sent, rows, names, ask, newest, shown, wanted)
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


def _more_places(
    sent: HeatSent, names: list[str], ask: Ask, shown: StepRange, wanted: list[int]
) -> Part:
    new = [i for i in wanted if i not in sent.places]
    parts = _places(names, new, ask, shown.first, sent.until, COLUMNS, sent.steps)
    sent.places = [*sent.places, *new]
    return {"ids": [f"p{i}" for i in new], "cells": packed(parts)}


def _more_columns(
    sent: HeatSent,
    rows: HeatRows,
    names: list[str],
    ask: Ask,
    newest: int,
    shown: StepRange,
    wanted: list[int],
) -> Part | None:
    first = sent.last_steps[-1] + 1 if sent.last_steps else shown.first or 0
    until = newest if shown.last is None else min(shown.last, newest)
    if first > until:
        return None
    count = max(1, LIVE_CELLS // max(1, len(rows.blocks) + len(wanted)))
    fresh = ask(None, first, until, count)
    if not fresh.steps:
        return None
    if not sent.steps or len(sent.steps) + len(fresh.steps) > COLUMNS_MAX:
        raise Unlike
    cells = [cells_of(fresh, list(rows.blocks))]
    cells += _places(names, wanted, ask, first, until, count, fresh.steps)
    sent.steps += fresh.steps
    sent.last_steps += fresh.last_steps
    sent.places = list(wanted)
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
        "ids": _ids(len(rows.blocks), wanted),
        "cells": packed(cells),
    }


def _chosen(
    choose: Callable[[float, float], float], old: float | None, new: float | None
) -> float | None:
    return new if old is None else old if new is None else choose(old, new)


class Unlike(Exception):  # noqa: N818 - not an error: the run went on between two requests
    """The columns of two heat maps of the same range differ."""


def _places(
    names: list[str],
    wanted: Sequence[int],
    ask: Ask,
    first: int | None,
    last: int | None,
    columns: int,
    steps: list[int],
) -> list[npt.NDArray[np.float32]]:
    if not wanted:
        return []
    found = ask([names[i] for i in wanted], first, last, columns)
    if found.steps != steps:
        raise Unlike
    return [cells_of(found, [names[i] for i in wanted])]


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


def _ids(blocks: int, places: Sequence[int]) -> list[str]:
    return [*(f"b{i}" for i in range(blocks)), *(f"p{i}" for i in places)]


def _is_log(data: Heatmap) -> bool:
    low, high, positive = data.low, data.high, data.least_positive
    return (
        low is not None
        and low >= 0
        and high is not None
        and positive is not None
        and high / positive > LOG_FROM
    )


def _within(block: str, name: str) -> str:
    """Return the name of a place within its block; "" for a module that is the block."""
    return "" if name == block else name.removeprefix(f"{block}.")


def _worst(severities: Sequence[str]) -> str:
    return next((s for s in SEVERITIES if s in severities), "")
