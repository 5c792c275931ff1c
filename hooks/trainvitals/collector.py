"""Reading a collector: its JSON API, as the terminal and the demo need it.

Comes in: the collector's address and a token with the scope read.
Goes out: runs as dicts, diagnoses and curves as the types of `trainvitals.diagnosis`.
Promise:  no redirect is followed (it would carry the token away); every call ends.
Start at `Collector.diagnosis`.
"""

from __future__ import annotations

import http.client
import json
import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from trainvitals.diagnosis.finding import Diagnosis, Finding, Severity, State
from trainvitals.diagnosis.history import Series
from trainvitals.report.curves import CurveKey, key_of, source_of

ANSWER_BYTES_MAX: Final = 64 * 2**20
ENDED: Final = ("finished", "failed", "stopped", "lost")
QUIET_S: Final = 2.5
"""A run's last round is over when nothing of it changed for that long after its end: collectors
look once a second."""


class Unreachable(Exception):  # noqa: N818 - a state of the world, said by its name
    """Nobody answered, or what answered is no collector in working order."""


class Refused(Exception):  # noqa: N818 - the collector's answer, not an error of ours
    """The collector answered with a problem; `reason` is its stable code."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Collector:
    """One collector, read over HTTP; a connection for each call."""

    def __init__(self, url: str, token: str = "", *, timeout_s: float = 10.0) -> None:
        """Raises ValueError for what is no http(s) address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a collector; http://127.0.0.1:8321 is one.")
        self.url = url.rstrip("/")
        self._parts = parts
        self._token = token
        self._timeout_s = timeout_s

    def get(self, path: str, **query: object) -> Any:
        """Return the JSON at `path`. Raises Unreachable or Refused."""
        status, body = self._fetched(path, query)
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise Unreachable(f"{self.url} answers, but not as a collector does.") from error
        if status == 200:
            return answer
        said = answer if isinstance(answer, dict) else {}
        reason = str(said.get("reason") or str(said.get("type", "")).rpartition("/")[2])
        message = str(said.get("detail") or said.get("title") or f"HTTP status {status}")
        if status >= 500:
            raise Unreachable(f"{self.url} is not in working order: {message}")
        raise Refused(status, reason, message)

    def _fetched(self, path: str, query: Mapping[str, object]) -> tuple[int, bytes]:
        target = self._parts.path.rstrip("/") + path
        if query:
            target += "?" + urlencode(query, doseq=True)
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        try:
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
            raise Unreachable(f"{self.url} does not answer: {said}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    def ready(self) -> bool:
        """Whether the collector can store batches now; False too when nobody answers."""
        try:
            self.get("/readyz")
        except (Unreachable, Refused):
            return False
        return True

    def run(self, run: str) -> dict[str, Any]:
        """Return all that is known of a run but its curves."""
        answer: dict[str, Any] = self.get(f"/api/v1/runs/{quote(run, safe='')}")
        return answer

    def diagnosis(self, run: str) -> Diagnosis | None:
        """Return what the collector's last round said of `run`; None before its first."""
        about = self.run(run)
        if about.get("health") is None:
            return None
        path = f"/api/v1/runs/{quote(run, safe='')}"
        found = tuple(finding_of(f) for f in self.get(f"{path}/findings")["findings"])
        streams = self.get(f"{path}/layout")["streams"]
        watched = [p["name"] for s in streams if s["stream"] != "scalar" for p in s["places"]]
        headline = about.get("headline")
        return Diagnosis(
            run=str(about["id"]),
            step=int(about["step"]),
            headline=finding_of(headline) if headline else None,
            findings=found,
            health=float(about["health"]),
            watched=tuple(dict.fromkeys(watched)),
            not_watched=about.get("not_watched") or {},
            overhead=about.get("overhead"),
        )

    def curves(self, diagnosis: Diagnosis, points: int = 200) -> dict[CurveKey, Series]:
        """Return the curve that proves the headline; empty when the collector has none."""
        finding = diagnosis.headline
        if finding is None or not finding.stream:
            return {}
        path = f"/api/v1/runs/{quote(diagnosis.run, safe='')}"
        streams = {s["stream"]: s["places"] for s in self.get(f"{path}/layout")["streams"]}
        source = source_of(finding, [p["name"] for p in streams.get(finding.stream, ())])
        if source is None:
            return {}
        query = {"stream": finding.stream, "statistic": source[0], "place": source[1]}
        try:
            answer = self.get(f"{path}/series", **query, points=points)
        except Refused:
            return {}  # a curve is an ornament: the card is complete without
        return {key_of(finding): _series(answer["series"][0])} if answer["series"] else {}

    def settled(self, run: str, timeout_s: float) -> bool:
        """Wait until the run has ended and its last round is over; False when time is up first."""
        deadline = time.monotonic() + timeout_s
        before: dict[str, Any] = {}
        since = time.monotonic()
        while time.monotonic() < deadline:
            try:
                now = self.run(run)
            except (Refused, Unreachable):
                now = {}
            if now != before:
                before, since = now, time.monotonic()
            elif _ended(now) and time.monotonic() - since >= QUIET_S:
                return True
            time.sleep(0.2)
        return False


def _ended(run: Mapping[str, Any]) -> bool:
    return run.get("state") in ENDED and run.get("health") is not None


def finding_of(answer: Mapping[str, Any]) -> Finding:
    """Return a finding as the API gives it; fields this version does not know are left out."""
    known = {f.name for f in fields(Finding)}
    kept = {name: value for name, value in answer.items() if name in known}
    kept["severity"] = Severity(kept["severity"])
    kept["state"] = State(kept.get("state", State.OPEN))
    evidence = kept.get("evidence") or {}
    kept["evidence"] = {k: math.nan if v is None else v for k, v in evidence.items()}
    return Finding(**kept)


def _series(curve: Mapping[str, Any]) -> Series:
    """Return the curve with each bucket's extreme, so that a spike of one step is seen."""
    low, mean, high = (
        np.array([np.nan if v is None else v for v in curve[name]], np.float32)
        for name in ("min", "mean", "max")
    )
    values = np.where(mean - low > high - mean, low, high)
    values[np.asarray(curve["nonfinite"]) > 0] = np.inf
    return Series(np.asarray(curve["step"], np.int64), values)
