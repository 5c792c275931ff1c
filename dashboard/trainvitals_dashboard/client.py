"""The collector's answers, typed; and the last good ones for when it is away.

Comes in: a URL and a token, from source.py.
Goes out: `Answer`s: a value, when it was true, and what went wrong since.
Promise:  no redirect, no proxy of the environment, one deadline a request. The collector being
          away is no exception where an answer is still known; it is said beside the answer.
Start at `Client`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from trainvitals_dashboard.answers import (
    Findings,
    Heatmap,
    Layouts,
    Run,
    RunDetail,
    RunPage,
    Series,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

KEPT_BYTES_MAX = 64 * 2**20
TIMEOUT_S = 5.0
POINTS = 500


class _ProblemBody(msgspec.Struct, frozen=True):
    reason: str = ""
    detail: str = ""


class Problem(Exception):  # noqa: N818 - the word of RFC 9457, as on the collector's side
    """There is no answer. `reason`: unreachable, broken, or the collector's own word."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


@dataclass(frozen=True)
class Answer(Generic[T_co]):
    """A value, and how good it is."""

    value: T_co
    at: float
    """When the collector gave it: seconds since the epoch."""
    problem: Problem | None = None
    """Why it is not from now; None when it is."""


@dataclass
class _Kept:
    value: Any
    at: float
    version: object
    etag: str
    size: int


class Client:
    """Asks one collector, with one token; may be used by many threads."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        clock: Callable[[], float] = time.time,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._token = token
        self._clock = clock
        self._http = httpx2.Client(
            base_url=url, timeout=TIMEOUT_S, trust_env=False, transport=transport
        )
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def runs(
        self,
        *,
        project: str | None = None,
        state: str | None = None,
        search: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Answer[RunPage]:
        """Return a page of runs."""
        asked = {
            "project": project,
            "state": state,
            "search": search,
            "limit": limit,
            "cursor": cursor,
        }
        return self._get("/runs", RunPage, asked)

    def run(self, run: str) -> Answer[RunDetail]:
        """Return a run."""
        return self._get(f"/runs/{_segment(run)}", RunDetail)

    def findings(self, run: Run) -> Answer[Findings]:
        """Return a run's findings. Not kept by version: rounds come after the data."""
        return self._get(f"/runs/{_segment(run.id)}/findings", Findings)

    def layout(self, run: Run) -> Answer[Layouts]:
        """Return what is measured of a run."""
        return self._get(f"/runs/{_segment(run.id)}/layout", Layouts, version=run.version)

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
    ) -> Answer[Series]:
        """Return curves of up to 50 places in at most `points` buckets each."""
        asked = {
            "stream": stream,
            "statistic": statistic,
            "place": list(places),
            "from_step": from_step,
            "to_step": to_step,
            "points": points,
        }
        path = f"/runs/{_segment(run.id)}/series"
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
    ) -> Answer[Heatmap]:
        """Return a statistic of all places over steps."""
        asked = {
            "stream": stream,
            "statistic": statistic,
            "from_step": from_step,
            "to_step": to_step,
            "columns": columns,
        }
        path = f"/runs/{_segment(run.id)}/heatmap"
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
            value = self._fetch(key, path, kind, given, version, kept)
        except Problem as problem:
            if kept is not None and problem.reason in ("unreachable", "broken"):
                return Answer(kept.value, kept.at, problem)
            raise
        return Answer(value, self._clock())

    def _fetch(
        self,
        key: str,
        path: str,
        kind: type[T],
        given: Mapping[str, Any],
        version: object,
        kept: _Kept | None,
    ) -> T:
        headers = {"Authorization": f"Bearer {self._token()}"}
        if kept is not None and kept.etag:
            headers["If-None-Match"] = kept.etag
        try:
            response = self._http.get("/api/v1" + path, params=dict(given), headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise Problem(
                "unreachable", f"The collector at {self.url} does not answer: {error}"
            ) from error
        if response.status_code == 304 and kept is not None:
            value: T = kept.value
            self._keep(key, _Kept(value, self._clock(), version, kept.etag, kept.size))
            return value
        if response.status_code != 200:
            raise _problem_of(response)
        try:
            value = msgspec.json.decode(response.content, type=kind)
        except msgspec.MsgspecError as error:
            raise Problem(
                "broken",
                f"{self.url} answers, but not as a trainvitals collector of this version "
                f"does ({error}). Upgrade the older side: pip install -U trainvitals.",
            ) from error
        etag = response.headers.get("etag", "")
        self._keep(key, _Kept(value, self._clock(), version, etag, len(response.content)))
        return value

    def _recall(self, key: str) -> _Kept | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: str, kept: _Kept) -> None:
        with self._lock:
            old = self._kept.pop(key, None)
            self._kept[key] = kept
            self._kept_bytes += kept.size - (old.size if old else 0)
            while self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].size


def _segment(name: str) -> str:
    # "." and ".." would be resolved away as path segments.
    return quote(name, safe="").replace(".", "%2E") if set(name) <= {"."} else quote(name, safe="")


def _problem_of(response: httpx2.Response) -> Problem:
    try:
        body = msgspec.json.decode(response.content, type=_ProblemBody)
    except msgspec.MsgspecError:
        body = _ProblemBody()
    status = response.status_code
    if status in (401, 403):
        return Problem("unauthorised" if status == 401 else "forbidden", body.detail)
    if status >= 500:
        return Problem("unreachable", f"The collector answers with status {status}. {body.detail}")
    reason = body.reason or "broken"
    return Problem(reason, body.detail or f"The collector answers with status {status}.")
