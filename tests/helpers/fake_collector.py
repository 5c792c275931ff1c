"""A collector that answers the query API from fixtures, on a free loopback port, in a thread.

It says what the contract says and stores nothing: for tests of those who read the API.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from helpers.fake_alerts import NO_NOTIFICATIONS, SETTINGS, alerts_of
from helpers.fake_findings import finding_of
from helpers.fake_runs import FakeRun, run_of
from trainvitals.api.blocks import blocks_of
from trainvitals.diagnosis.registry import all_rules, rule_by_code

TOKEN = "tv_read_1_secret"

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Of the report of a run."""


@dataclass
class FakeCollector:
    """What it answers, and what it was asked."""

    runs: list[FakeRun] = field(default_factory=list)
    token: str = TOKEN
    down: bool = False
    """Drop every connection, as a collector that is gone."""
    rescue: bool = False
    """Read a damaged database only."""
    notifications: dict[str, Any] = field(default_factory=lambda: dict(NO_NOTIFICATIONS))
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Paths with their queries."""

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        """Return the JSON or the page (a string) of a path, None for one that is not there."""
        if path == "/version":
            return {"version": "0", "database": "sqlite", "rescue": self.rescue}
        parts = path.removeprefix("/api/v1/").split("/")
        if parts == ["runs"]:
            return self._page(query)
        if parts[0] == "rules":
            return _rule_page(parts[1]) if len(parts) > 1 else _rules()
        match parts:
            case ["alerts"]:
                return alerts_of(self.runs, query, self.notifications["notices"])
            case ["notifications"]:
                return self.notifications
            case ["settings"]:
                return self.settings
        run = next((r for r in self.runs if r.id == unquote(parts[1])), None)
        if parts[0] != "runs" or run is None:
            return None
        match parts[2:]:
            case []:
                return {**run_of(run), **run.detail}
            case ["findings"]:
                return {"findings": [finding_of(f) for f in run.findings]}
            case ["report.html"]:
                head = f'<!doctype html><meta content="{POLICY}"><title>{run.id}</title>'
                return f"{head}<body><h2>Curves</h2></body>"
            case ["initial"]:
                return run.initial()
            case ["layout"]:
                return {"streams": run.layout()}
            case ["series"]:
                return _series(run, query)
            case ["heatmap"]:
                return _heatmap(run, query)
        return None

    def _page(self, query: dict[str, list[str]]) -> Any:
        def fits(run: FakeRun) -> bool:
            return all(
                (
                    query.get("project", [run.project])[0] == run.project,
                    query.get("state", [run.state])[0] == run.state,
                    query.get("search", [""])[0].lower() in f"{run.id} {run.project}".lower(),
                    "archived" in query or not run.fields.get("archived"),
                )
            )

        found = [run for run in self.runs if fits(run)]
        limit = int(query.get("limit", ["100"])[0])
        first = int(query.get("cursor", ["0"])[0])
        cursor = str(first + limit) if len(found) > first + limit else None
        page = found[first : first + limit]
        return {"runs": [run_of(run) for run in page], "next_cursor": cursor}


def _rules() -> Any:
    pages = [rule.page() for rule in all_rules()]
    return {"rules": [{"code": p.code, "rule": p.rule, "summary": p.summary} for p in pages]}


def _rule_page(code: str) -> Any:
    try:
        return msgspec.to_builtins(rule_by_code(code).page())
    except KeyError:
        return None


def _steps(run: FakeRun, query: dict[str, list[str]]) -> list[int]:
    first = int(query.get("from_step", ["0"])[0])
    last = int(query.get("to_step", [str(run.step)])[0])
    return [s for s in range(run.step + 1) if first <= s <= last and not run.is_missing(s)]


def _buckets(steps: list[int], wanted: int) -> list[list[int]]:
    size = max(1, math.ceil(len(steps) / wanted))
    return [steps[i : i + size] for i in range(0, len(steps), size)]


def _series(run: FakeRun, query: dict[str, list[str]]) -> Any:
    stream, statistic = query["stream"][0], query["statistic"][0]
    buckets = _buckets(_steps(run, query), int(query.get("points", ["500"])[0]))
    series = []
    for place in query["place"]:
        curve: dict[str, Any] = {
            name: []
            for name in (
                "step",
                "last_step",
                "min",
                "mean",
                "max",
                "last",
                "nonfinite",
                "count",
            )
        }
        for bucket in buckets:
            values = [run.value(stream, statistic, place, step) for step in bucket]
            known = [v for v in values if v is not None and math.isfinite(v)]
            if all(v is None for v in values):
                continue
            curve["step"].append(bucket[0])
            curve["last_step"].append(bucket[-1])
            curve["min"].append(min(known, default=None))
            curve["mean"].append(sum(known) / len(known) if known else None)
            curve["max"].append(max(known, default=None))
            curve["last"].append(known[-1] if known else None)
            curve["nonfinite"].append(sum(v is not None and math.isinf(v) for v in values))
            curve["count"].append(len(known))
        series.append({"place": place, **curve})
    return {"stream": stream, "statistic": statistic, "series": series}


def _heatmap(run: FakeRun, query: dict[str, list[str]]) -> Any:
    stream, statistic = query["stream"][0], query["statistic"][0]
    buckets = _buckets(_steps(run, query), int(query.get("columns", ["200"])[0]))
    layout = next(s for s in run.layout() if s["stream"] == stream)
    every = [place["name"] for place in layout["places"]]
    wanted = query.get("place", every)
    members = {name: _inside(name, every) if name.endswith(".") else [name] for name in wanted}
    places = list(dict.fromkeys(place for group in members.values() for place in group))
    values = {
        place: [run.value(stream, statistic, place, bucket[len(bucket) // 2]) for bucket in buckets]
        for place in places
    }
    finite = [v for row in values.values() for v in row if v is not None and math.isfinite(v)]
    merge = max if statistic == "nonfinite" else statistics.median
    rows = _merged_rows(
        values, blocks_of(values) if query.get("by") == ["block"] else members, merge
    )
    return {
        "stream": stream,
        "statistic": statistic,
        "places": list(rows),
        "steps": [bucket[0] for bucket in buckets],
        "values": [[v if _is_finite(v) else None for v in row] for row in rows.values()],
        "last_steps": [bucket[-1] for bucket in buckets],
        "nonfinite": [
            [i for i, v in enumerate(row) if v is not None and not _is_finite(v)]
            for row in rows.values()
        ],
        "low": min(finite, default=None),
        "high": max(finite, default=None),
        "least_positive": min((v for v in finite if v > 0), default=None),
    }


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _inside(module: str, every: Sequence[str]) -> list[str]:
    return [name for name in every if f"{name}.".startswith(module)]


def _merged_rows(
    values: dict[str, list[float | None]],
    rows: Mapping[str, Sequence[str]],
    merge: Callable[[list[float]], float],
) -> dict[str, list[float | None]]:
    """Return the merged values of each row; infinite if the value of any of its places is."""
    made = {}
    for row, members in rows.items():
        columns = zip(*(values[m] for m in members), strict=True)
        made[row] = [_merged(column, merge) for column in columns]
    return made


def _merged(column: Sequence[float | None], merge: Callable[[list[float]], float]) -> float | None:
    known = [v for v in column if v is not None]
    if any(not math.isfinite(v) for v in known):
        return math.inf
    return merge(known) if known else None


@contextlib.contextmanager
def fake_collector(*runs: FakeRun) -> Iterator[FakeCollector]:
    """Yield a collector that knows `runs`."""
    fake = FakeCollector(list(runs))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append(self.path)
            if fake.down:
                self.connection.close()
                return
            if self.headers.get("Authorization") != f"Bearer {fake.token}":
                self._send(401, {"reason": "unauthorised", "detail": "No token of ours."})
                return
            parts = urlsplit(self.path)
            answer = fake.answer(parts.path, parse_qs(parts.query))
            if answer is None:
                what = "rule" if "/rules/" in parts.path else "run"
                self._send(404, {"reason": f"unknown_{what}", "detail": f"No such {what}."})
            else:
                self._send(200, answer)

        def _send(self, status: int, answer: Any) -> None:
            is_page = isinstance(answer, str)
            body = (answer if is_page else json.dumps(answer, allow_nan=False)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if is_page else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: `asked` remembers."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
