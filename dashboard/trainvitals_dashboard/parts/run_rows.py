"""Messages to the table of runs: which runs, in which order, and what changed.

Comes in: the runs of the collector, filters, an order.
Goes out: numbered messages; dashboard/board/src/runs.js reads them.
Promise:  a continuation contains only the fields that changed, of LIVE_BYTES at most besides new
          runs: the rows take turns; names are plain text.
Start at `runs_message`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from trainvitals.api.schema import Run
from trainvitals.api.wording import number
from trainvitals_dashboard.figures import charts
from trainvitals_dashboard.figures.charts import Part
from trainvitals_dashboard.figures.curves import is_log
from trainvitals_dashboard.figures.updates import next_number
from trainvitals_dashboard.parts.header import progress
from trainvitals_dashboard.parts.verdict import verdict_of, verdict_text
from trainvitals_dashboard.wording import (
    SEVERITY_SIGN,
    VERDICT_WORDS,
    clean,
    rate,
    shortened,
)

LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""The heights of a small curve, from the lowest; as in dashboard/board/src/runtext.js."""
TAGS_SHOWN = 3
LIVE_BYTES = 1_600
"""Of the changed rows of an update. Streamlit adds 2 KB."""
VERDICTS = ("failed", "error", "warning", "blind", "too_early", "unknown", "healthy", "experiment")
"""Worst first."""
SIGNS = {
    **SEVERITY_SIGN,
    "failed": "✖",
    "blind": "◌",
    "too_early": "…",
    "unknown": "…",
    "experiment": "◇",
}
TONES = {
    "failed": "error",
    **dict.fromkeys(("blind", "too_early", "unknown", "experiment"), "neutral"),
}
_STATES = ("running", "lost", "failed", "stopped", "finished")


@dataclass(frozen=True)
class Filters:
    """Which runs are shown; None or "" means all."""

    search: str = ""
    verdict: str | None = None
    state: str | None = None
    project: str | None = None
    tag: str | None = None
    host: str | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether every run is shown."""
        return not any(getattr(self, field.name) for field in fields(self))

    def fits(self, run: Run) -> bool:
        """Return whether a run is shown."""
        return (
            (not self.verdict or verdict_of(run) == self.verdict)
            and (not self.state or run.state == self.state)
            and (not self.project or run.project == self.project)
            and (not self.host or run.host == self.host)
            and (not self.tag or self.tag in run.tags)
            and (not self.search or self.search.lower() in _searched(run))
        )


def _searched(run: Run) -> str:
    return "\n".join((run.id, run.name, run.project, run.host, *run.tags)).lower()


def _known(value: float | None) -> float:
    """Return a number for sorting: an unknown value comes last."""
    return math.inf if value is None or not math.isfinite(value) else value


def _rank(order: Sequence[str], value: str) -> int:
    return order.index(value) if value in order else len(order)


ORDERS: dict[str, Callable[[Run], Any]] = {
    "verdict": lambda run: _rank(VERDICTS, verdict_of(run)),
    "name": lambda run: (run.name or run.id).lower(),
    "findings": lambda run: (-run.findings.error, -run.findings.warning, -run.findings.info),
    "loss": lambda run: _known(run.loss),
    "step": lambda run: -run.step,
    "rate": lambda run: _known(None if run.step_rate is None else -run.step_rate),
    "age": lambda run: -run.last_report_at,
    "state": lambda run: _rank(_STATES, run.state),
    "project": lambda run: run.project.lower(),
    "host": lambda run: run.host.lower(),
}
"""Name of an order → what is sorted by. The names are those of runcolumns.js."""


def checked_order(sort: str) -> str:
    """Return the order if it exists ("loss", reversed "-loss"), "" (newest first) otherwise."""
    return sort if sort.removeprefix("-") in ORDERS else ""


def ordered(runs: Iterable[Run], sort: str) -> list[Run]:
    """Return the runs in an order; equal ones stay newest first, as they come."""
    found = list(runs)
    if key := ORDERS.get(sort.removeprefix("-")):
        found.sort(key=key, reverse=sort.startswith("-"))
    return found


def row_of(run: Run) -> Part:
    """Return the fields of a row."""
    kind = verdict_of(run)
    state = "lost contact" if run.state == "lost" else clean(run.state)
    return {
        "id": run.id,
        "name": shortened(run.name or run.id, 80),
        "tags": [shortened(tag, 24) for tag in run.tags[:TAGS_SHOWN]],
        "project": shortened(run.project, 60),
        "host": shortened(run.host, 40),
        "state": f"{state}, archived" if run.archived else state,
        "verdict": VERDICT_WORDS.get(kind, kind),
        "sign": SIGNS.get(kind, "●"),
        "tone": TONES.get(kind, kind),
        "about": shortened(verdict_text(run).replace("`", ""), 300),
        "findings": [run.findings.error, run.findings.warning, run.findings.info],
        "loss": number(run.loss),
        "spark": spark_text(run.sparkline),
        "step": progress(run),
        "rate": rate(run.step_rate) if run.state == "running" else "",
        "at": round(run.last_report_at),
    }


def spark_text(values: Sequence[float | None]) -> str:
    """Return a curve as one character per point, "." where a value is missing or not finite.

    The scale is logarithmic where `is_log` says so.
    """
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return ""
    log = is_log(known)
    heights = [
        None if v is None or not math.isfinite(v) else math.log10(v) if log else v for v in values
    ]
    drawn = [h for h in heights if h is not None]
    low, high = min(drawn), max(drawn)
    # Halves: the difference of two large values of opposite sign may overflow.
    half = high / 2 - low / 2
    top = len(LEVELS) - 1
    return "".join(
        "."
        if h is None
        else LEVELS[round(top * min(1.0, (h / 2 - low / 2) / half))]
        if half > 0
        else LEVELS[top // 2]
        for h in heights
    )


@dataclass
class RunsSent:
    """What the browser has."""

    shape: Any
    message: Part
    rows: dict[str, Part]
    """Id → fields, as the browser has them."""
    left: int
    turn: str = ""
    """The run whose row was sent last."""


def runs_message(
    runs: Sequence[Run], sort: str, *, limit: int, now: float, shape: Any, sent: RunsSent | None
) -> RunsSent:
    """Return the next message and what the browser has after it.

    `runs` are all runs that fit the filters; the first `limit` are shown. `now` is in seconds
    since the epoch. With another `shape` (filters and order), all rows are sent anew. Without a
    change, the last message is returned again.
    """
    every = ordered(runs, sort)
    rows = {run.id: row_of(run) for run in every[:limit]}
    left = len(every) - len(rows)
    if sent is None or sent.shape != shape:
        message = {
            "kind": "runs",
            "seq": next_number(),
            "base": None,
            "now": round(now),
            "colours": charts.colours(),
            "sort": sort,
            "order": list(rows),
            "left": left,
            "rows": list(rows.values()),
        }
        return RunsSent(shape, message, rows, left)
    have, changed, turn = _some_changed(sent, rows)
    news: Part = {"rows": changed}
    if list(rows) != list(sent.rows):
        news["order"] = list(rows)
    if left != sent.left:
        news["left"] = left
    if len(news) == 1 and not news["rows"]:
        return sent
    numbers = {"seq": next_number(), "base": sent.message["seq"], "now": round(now)}
    return RunsSent(shape, {"kind": "runs", **numbers, **news}, have, left, turn)


def _some_changed(sent: RunsSent, rows: dict[str, Part]) -> tuple[dict[str, Part], list[Part], str]:
    """Return the rows that the browser has after an update, the changes for it, and the turn.

    All new runs are sent, and changed ones of LIVE_BYTES or one.
    """
    names, have = list(rows), {}
    start = names.index(sent.turn) + 1 if sent.turn in rows else 0
    changed: list[Part] = []
    size, turn, full = 0, sent.turn, False
    for name in names[start:] + names[:start]:
        old = sent.rows.get(name)
        news = _changed(old, rows[name])
        have[name] = rows[name]
        if len(news) == 1:
            continue
        if old is not None:
            size += len(json.dumps(news)) + 2
            full = full or (bool(changed) and size > LIVE_BYTES)
            if full:
                have[name] = old
                continue
            turn = name
        changed.append(news)
    return {name: have[name] for name in names}, changed, turn


def _changed(old: Part | None, new: Part) -> Part:
    if old is None:
        return new
    return {k: v for k, v in new.items() if k == "id" or old.get(k) != v}
