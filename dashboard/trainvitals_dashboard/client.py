"""A client of the query API that keeps the last valid answers.

Comes in: a URL and a token, from access.py.
Goes out: `Answer`s: a value, its time of receipt, and the error of the newest request.
Promise:  if the collector is unreachable and an earlier answer is kept, that answer is returned
          with its time and the problem; nothing is raised.
Changes of a run are sent at once and raise `Problem`.
Start at `Client`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from cachetools import LRUCache

from trainvitals.api.client import (
    Broken,
    Exchange,
    Refused,
    Unreachable,
    run_path,
)
from trainvitals.api.client import (
    Client as ApiClient,
)
from trainvitals.api.schema import (
    Alerts,
    ChannelTest,
    Checkup,
    CollectorSettings,
    Deleted,
    Findings,
    Heatmap,
    Layouts,
    Notifications,
    RulePage,
    Rules,
    Run,
    RunDetail,
    RunPage,
    Series,
    Version,
)
from trainvitals.comparison import Comparison, compare
from trainvitals_dashboard.kept import Kept, memory_of

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

KEPT_BYTES_MAX = 64 * 2**20
"""Memory of all kept answers, not the size of their bodies."""
TIMEOUT_S = 5.0
TEST_TIMEOUT_S = 15.0
POINTS = 500
DRAWN = ("min", "mean", "max")
"""The values of a bucket that charts need."""
VALUES = (*DRAWN, "last")
PAGE = 500
"""Runs that the API sends at once."""
RUNS_MAX = 2000
ALL_RUNS_S = 2.0
SCOPE_S = 30.0


class Problem(Exception):  # noqa: N818 - the word of RFC 9457, as on the collector's side
    """No answer is available. `reason`: unreachable, broken, or the reason the collector sent."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


@dataclass(frozen=True)
class Answer(Generic[T_co]):
    """A value, its time and, if it is outdated, the reason."""

    value: T_co
    at: float
    """Time at which it was received: seconds since the epoch."""
    problem: Problem | None = None
    """Why the value is not current; None when it is current."""


class Client:
    """Sends requests to one collector with one token. Thread-safe."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        clock: Callable[[], float] = time.time,
        exchange: Exchange | None = None,
    ) -> None:
        self.url = url
        self._clock = clock
        self._client = ApiClient(url, token, timeout_s=TIMEOUT_S, exchange=exchange, binary=True)
        # A delivery may take 10 s.
        self._patient = ApiClient(url, token, timeout_s=TEST_TIMEOUT_S, exchange=exchange)
        self._kept: LRUCache[str, Kept] = LRUCache(KEPT_BYTES_MAX, lambda kept: kept.size)
        self._lock = threading.Lock()
        self._runs_lock = threading.Lock()
        self._every_run: dict[bool, Answer[RunPage]] = {}
        self._scope_lock = threading.Lock()
        self._scope = (-math.inf, "")

    def runs(
        self,
        *,
        project: str | None = None,
        state: str | None = None,
        search: str | None = None,
        archived: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Answer[RunPage]:
        """Return a page of runs; `archived`: with the archived ones."""
        asked = {
            "project": project,
            "state": state,
            "search": search,
            "archived": "true" if archived else None,
            "limit": limit,
            "cursor": cursor,
        }
        return self._get("/runs", RunPage, asked)

    def every_run(self, *, archived: bool = False) -> Answer[RunPage]:
        """Return the newest RUNS_MAX runs; `next_cursor` is set if there are more.

        `archived`: with the archived ones. All pages that show the list within ALL_RUNS_S seconds
        get the same answer.
        """
        with self._runs_lock:
            kept = self._every_run.get(archived)
            if kept is not None and 0 <= self._clock() - kept.at < ALL_RUNS_S:
                return kept
            first = answer = self.runs(archived=archived, limit=PAGE)
            found = list(first.value.runs)
            while answer.value.next_cursor and answer.problem is None and len(found) < RUNS_MAX:
                cursor = answer.value.next_cursor
                answer = self.runs(archived=archived, limit=PAGE, cursor=cursor)
                found += answer.value.runs
            page = RunPage(found, answer.value.next_cursor)
            kept = Answer(page, first.at, first.problem or answer.problem)
            self._every_run[archived] = kept
            return kept

    def run(self, run: str) -> Answer[RunDetail]:
        """Return a run."""
        return self._get(run_path(run), RunDetail)

    def alerts(self, *, severity: str, state: str | None = None) -> Answer[Alerts]:
        """Return the open findings of all runs by run and rule."""
        return self._get("/alerts", Alerts, {"severity": severity, "state": state})

    def notifications(self) -> Answer[Notifications]:
        """Return channels, routes, silences and the newest messages."""
        return self._get("/notifications", Notifications)

    def settings(self) -> Answer[CollectorSettings]:
        """Return the collector's settings and the rights of the token."""
        return self._get("/settings", CollectorSettings)

    def version(self) -> Version:
        """Return the collector's version and database.

        Raises:
            Problem: it does not answer.
        """
        try:
            return self._client.version()
        except (Unreachable, Refused) as error:
            raise _problem_of(error) from error

    def is_rescue(self) -> bool:
        """Return whether the collector only reads a damaged database; False when it is unknown."""
        try:
            return self._client.version().rescue
        except (Unreachable, Refused):
            return False  # the page itself explains why there is no answer

    def may_write(self) -> bool:
        """Return whether the token may change runs; False when it is unknown.

        The collector is asked once in SCOPE_S seconds.
        """
        with self._scope_lock:
            at, scope = self._scope
            if self._clock() - at >= SCOPE_S:
                try:
                    scope = self.settings().value.viewer.scope
                except Problem:
                    scope = ""  # an older collector, or none: the page itself explains it
                self._scope = self._clock(), scope
            return scope == "admin"

    def change(self, run: str, changes: Mapping[str, Any]) -> None:
        """Set name, tags, notes or archived of a run. Raises Problem."""
        _sent(lambda: self._client.change(run, **changes))
        self._forget_runs()

    def delete(self, run: str) -> Deleted:
        """Put a run into the bin. Raises Problem."""
        deleted = _sent(lambda: self._client.delete(run))
        self._forget_runs()
        return deleted

    def undelete(self, run: str) -> None:
        """Restore a run from the bin. Raises Problem."""
        _sent(lambda: self._client.undelete(run))
        self._forget_runs()

    def add_silence(self, wanted: Mapping[str, Any]) -> None:
        """Add a silence: projects, runs, rules, hours, reason. Raises Problem."""
        _sent(lambda: self._client.silence(**wanted))

    def end_silence(self, silence: str) -> None:
        """End a silence. Raises Problem."""
        _sent(lambda: self._client.end_silence(silence))

    def test_channel(self, channel: str) -> ChannelTest:
        """Send a test message to a channel; return what its receiver answered. Raises Problem."""
        return _sent(lambda: self._patient.test_channel(channel))

    def report_page(self, run: str) -> str:
        """Return the report of a run as one HTML page. Raises Problem."""
        return _sent(lambda: self._client.report_page(run))

    def comparison(self, a: str, b: str) -> Comparison:
        """Return where two runs differ first; some 10 requests or more. Raises Problem."""
        return _sent(lambda: compare(self._client, a, b))

    def _forget_runs(self) -> None:
        with self._runs_lock:
            self._every_run.clear()

    def findings(self, run: Run) -> Answer[Findings]:
        """Return a run's findings. Not cached by version: diagnosis runs after the data arrives."""
        return self._get(f"{run_path(run.id)}/findings", Findings)

    def rule(self, code: str) -> Answer[RulePage]:
        """Return the page of a rule. Requested at each call: an upgrade may change it."""
        return self._get(f"/rules/{quote(code, safe='')}", RulePage)

    def rules(self) -> Answer[Rules]:
        """Return code, name and summary of each rule."""
        return self._get("/rules", Rules)

    def initial(self, run: Run) -> Answer[Checkup]:
        """Return the state of a run before its training."""
        return self._get(f"{run_path(run.id)}/initial", Checkup, version=run.version)

    def layout(self, run: Run) -> Answer[Layouts]:
        """Return the measured streams, statistics and places of a run."""
        return self._get(f"{run_path(run.id)}/layout", Layouts, version=run.version)

    def series(
        self,
        run: Run,
        stream: str,
        statistic: str,
        places: Sequence[str],
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        points: int = POINTS,
        values: Sequence[str] = DRAWN,
    ) -> Answer[Series]:
        """Return curves of up to 50 places in at most `points` buckets each.

        `values`: some of min, mean, max and last; the others are empty.
        """
        asked = {
            "stream": stream,
            "statistic": statistic,
            "place": list(places),
            "from_step": from_step,
            "to_step": to_step,
            "points": points,
            "value": list(values),
        }
        path = f"{run_path(run.id)}/series"
        return self._get(path, Series, asked, version=run.version)

    def heatmap(
        self,
        run: Run,
        stream: str,
        statistic: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        columns: int = 200,
        places: Sequence[str] | None = None,
        by: str = "place",
    ) -> Answer[Heatmap]:
        """Return a statistic over steps: of all places, of some (at most 200), or by block."""
        asked = {
            "stream": stream,
            "statistic": statistic,
            "from_step": from_step,
            "to_step": to_step,
            "columns": columns,
            "place": list(places) if places is not None else None,
            "by": by if by != "place" else None,
        }
        path = f"{run_path(run.id)}/heatmap"
        return self._get(path, Heatmap, asked, version=run.version)

    def _get(
        self,
        path: str,
        kind: type[T],
        asked: Mapping[str, Any] | None = None,
        *,
        version: object = None,
    ) -> Answer[T]:
        given = {name: value for name, value in (asked or {}).items() if value not in (None, "")}
        key = f"{path}?{sorted(given.items())}"
        kept = self._recall(key)
        if kept is not None and version is not None and kept.version == version:
            return Answer(kept.value, kept.at)
        try:
            reply = self._client.get(path, kind, etag=kept.etag if kept else "", **given)
        except (Unreachable, Refused) as error:
            problem = _problem_of(error)
            if kept is not None and isinstance(error, Unreachable):
                return Answer(kept.value, kept.at, problem)
            raise problem from error
        if kept is not None and reply.value is None:
            value, size = kept.value, kept.size
        else:
            value, size = reply.value, memory_of(key) + memory_of(reply.value)
        now = self._clock()
        self._keep(key, Kept(value, now, version, reply.etag, size))
        return Answer(value, now)

    def _recall(self, key: str) -> Kept | None:
        with self._lock:
            return self._kept.get(key)

    def _keep(self, key: str, kept: Kept) -> None:
        with self._lock:
            if kept.size <= self._kept.maxsize:
                self._kept[key] = kept


def _sent(call: Callable[[], T]) -> T:
    """Return the result of `call`. Raises Problem if the collector refuses or is unreachable."""
    try:
        return call()
    except (Unreachable, Refused) as error:
        raise _problem_of(error) from error


def _problem_of(error: Unreachable | Refused) -> Problem:
    if isinstance(error, Refused):
        return Problem(error.reason, str(error))
    return Problem("broken" if isinstance(error, Broken) else "unreachable", str(error))
