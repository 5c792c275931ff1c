"""The HTTP client of the API: the command line, the demo and the dashboard use runs through it.

Comes in: a collector's address and a token with the scope read.
Goes out: the structs of `schema`.
Promise:  no redirect is followed (it would send the token to another address), no proxy or `.netrc`
          is read from the environment, and every exchange ends.
Start at `Client.get`.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from trainvitals.api import arrow
from trainvitals.api.schema import (
    ChannelTest,
    Checkup,
    Deleted,
    Findings,
    Heatmap,
    Latest,
    Layouts,
    RunDetail,
    RunPage,
    Series,
    Silence,
    Version,
)
from trainvitals.wire import Batch, WireError, decode
from trainvitals.wire.codec import Limits

T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 64 * 2**20
TIMEOUT_S: Final = 10.0
NOT_MODIFIED: Final = 304
BASE: Final = "/api/v1"
_FRAMES_LIMITS: Final = Limits(values_max=16 * 2**20, places_max=10**6, name_bytes_max=4096)

Exchange = Callable[[str, Mapping[str, str]], tuple[int, Mapping[str, str], bytes]]
"""(path with query, request headers) → (status, response headers in lower case, body)."""


class Unreachable(Exception):  # noqa: N818 - a state of the world, named as such
    """The collector did not answer, or answered with status 500 or above."""


class Broken(Unreachable):
    """The answer is not one of a collector of this version."""


class Refused(Exception):  # noqa: N818 - the collector's answer, not an error of this client
    """The collector answered with a problem; `reason` is its stable code."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class _Problem(msgspec.Struct, frozen=True):
    type: str = ""
    title: str = ""
    detail: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Reply(Generic[T]):
    """A decoded answer; `value` is None when nothing changed since `etag`."""

    value: T | None
    etag: str
    size: int
    """Bytes of the answer."""


class Client:
    """Reads one collector over HTTP, one connection per call; may be used by many threads."""

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str] = "",
        *,
        timeout_s: float = TIMEOUT_S,
        exchange: Exchange | None = None,
        binary: bool = False,
    ) -> None:
        """`token` may be a function that reads it anew for each call.

        `binary` asks for curves and heat maps as Arrow streams, where pyarrow is installed.

        Raises:
            ValueError: `url` is not an http(s) address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{url!r} is not an address of a collector; http://127.0.0.1:8321 is one."
            )
        self.url = url.rstrip("/")
        self._parts = parts
        self._token = token if callable(token) else lambda: token
        self._timeout_s = timeout_s
        self._exchange = exchange or self._over_http
        self._arrow = arrow.decoders() if binary else {}

    def runs(self, **filters: Any) -> RunPage:
        """Return a page of runs: project, state, search, archived, deleted, limit, cursor."""
        return self.fetch("/runs", RunPage, **filters)

    def run(self, run: str) -> RunDetail:
        """Return the details of a run, without its curves."""
        return self.fetch(run_path(run), RunDetail)

    def id_of(self, run: str) -> str:
        """Return the id of the run with this id, or else with this displayed name.

        Raises Refused if there is no such run, and if several runs have this name.
        """
        try:
            return self.run(run).id
        except Refused as refused:
            if refused.reason != "unknown_run":
                raise
            found = [r.id for r in self.runs(search=run, archived=True).runs if r.name == run]
            if not found:
                raise Refused(404, "unknown_run", f"No run has the id or name {run!r}.") from None
        if len(found) > 1:
            shown = ", ".join(found[:5])
            raise Refused(
                409, "ambiguous", f"{len(found)} runs are named {run!r}: give an id ({shown})."
            )
        return found[0]

    def findings(self, run: str) -> Findings:
        """Return a run's findings, ranked."""
        return self.fetch(f"{run_path(run)}/findings", Findings)

    def initial(self, run: str) -> Checkup:
        """Return the state of a run before its training."""
        return self.fetch(f"{run_path(run)}/initial", Checkup)

    def layout(self, run: str) -> Layouts:
        """Return what is measured of a run."""
        return self.fetch(f"{run_path(run)}/layout", Layouts)

    def series(
        self, run: str, stream: str, statistic: str, places: Sequence[str], **query: Any
    ) -> Series:
        """Return curves of up to 50 places: from_step, to_step, points."""
        wanted: dict[str, Any] = {"stream": stream, "statistic": statistic, "place": list(places)}
        return self.fetch(f"{run_path(run)}/series", Series, **wanted, **query)

    def heatmap(self, run: str, stream: str, statistic: str, **query: Any) -> Heatmap:
        """Return a statistic of all places over steps: from_step, to_step, columns."""
        wanted = {"stream": stream, "statistic": statistic}
        return self.fetch(f"{run_path(run)}/heatmap", Heatmap, **wanted, **query)

    def latest(self, run: str) -> Latest:
        """Return the newest value of every series of a run."""
        return self.fetch(f"{run_path(run)}/latest", Latest)

    def report_page(self, run: str) -> str:
        """Return the newest diagnosis of a run as one HTML page."""
        target = _target(BASE, f"{run_path(run)}/report.html", {})
        status, _, body = self._ask(target, {"Accept": "text/html"})
        if status != 200:
            raise self._problem(status, body)
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise Broken(f"{self.url} answers with a page that is not UTF-8: {error}") from error

    def frames(self, run: str, stream: str, from_step: int = 0) -> Batch:
        """Return the first rows of a stream from `from_step` on: a layout and a frame, bit for bit.

        Without rows, the batch has no records. The last step of a frame + 1 asks for the next rows.
        """
        query = {"stream": stream, "from_step": from_step}
        status, _, body = self._ask(_target(BASE, f"{run_path(run)}/frames", query), {})
        if status != 200:
            raise self._problem(status, body)
        try:
            return decode(body, _FRAMES_LIMITS)
        except WireError as error:
            raise Broken(f"{self.url} answers with frames that cannot be read: {error}") from error

    def change(self, run: str, **changes: Any) -> RunDetail:
        """Set name, tags, notes or archived of a run; the token needs the scope admin."""
        return self._send("PATCH", run_path(run), RunDetail, changes)

    def delete(self, run: str, *, now: bool = False) -> Deleted:
        """Move a run to the bin, or delete it permanently; the token needs the scope admin."""
        return self._send("DELETE", f"{run_path(run)}{'?now=true' if now else ''}", Deleted)

    def undelete(self, run: str) -> RunDetail:
        """Restore a run from the bin; the token needs the scope admin."""
        return self._send("POST", f"{run_path(run)}/undelete", RunDetail)

    def silence(self, **wanted: Any) -> Silence:
        """Add a silence: projects, runs, rules, hours, reason; the token needs the scope admin."""
        return self._send("POST", "/silences", Silence, wanted)

    def end_silence(self, silence: str) -> Silence:
        """End a silence; the token needs the scope admin."""
        return self._send("DELETE", f"/silences/{quote(silence, safe='')}", Silence)

    def test_channel(self, channel: str) -> ChannelTest:
        """Send a test message to a channel; the token needs the scope admin."""
        name = quote(channel, safe="")
        return self._send("POST", f"/notifications/channels/{name}/test", ChannelTest)

    def version(self) -> Version:
        """Return the name and the version of the collector."""
        return self.fetch("/version", Version, base="")

    def ready(self) -> bool:
        """Whether the collector can store batches now; False if it does not answer."""
        try:
            return self._ask("/readyz", {})[0] == 200
        except Unreachable:
            return False

    def fetch(self, path: str, kind: type[T], *, base: str = BASE, **query: Any) -> T:
        """Return the answer at `path` below `base`. Raises Unreachable or Refused."""
        reply = self.get(path, kind, base=base, **query)
        if reply.value is None:
            raise Broken(f"{self.url} answers 304 to a request without an ETag.")
        return reply.value

    def get(
        self, path: str, kind: type[T], *, etag: str = "", base: str = BASE, **query: Any
    ) -> Reply[T]:
        """Return the answer at `path` below `base`, or that it is still the one of `etag`.

        Raises:
            Unreachable: no answer, or one with status 500 or above.
            Broken: the answer is not one of a collector of this version.
            Refused: the collector answers with a problem.
        """
        target = _target(base, path, query)
        wanted = {"If-None-Match": etag} if etag else {}
        if kind in self._arrow:
            wanted["Accept"] = arrow.ACCEPT
        status, headers, body = self._ask(target, wanted)
        if status == NOT_MODIFIED and etag:
            return Reply(None, etag, 0)
        if status != 200:
            raise self._problem(status, body)
        value = self._decoded(body, kind, headers.get("content-type", ""))
        return Reply(value, headers.get("etag", ""), len(body))

    def _send(self, method: str, path: str, kind: type[T], content: object = None) -> T:
        """Send a request that changes something; return the answer."""
        target, headers = self._request(f"{BASE}{path}", {"Content-Type": "application/json"})
        sent = b"" if content is None else msgspec.json.encode(content)
        status, _, body = self._over_http(target, headers, method, sent)
        if status != 200:
            raise self._problem(status, body)
        return self._decoded(body, kind)

    def _decoded(self, body: bytes, kind: type[T], content_type: str = "") -> T:
        try:
            if content_type == arrow.MEDIA_TYPE and kind in self._arrow:
                value: T = self._arrow[kind](body)
                return value
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, arrow.NotArrow) as error:
            raise Broken(
                f"{self.url} does not answer like a trainvitals collector of this version "
                f"({error}). Upgrade the older side: pip install -U trainvitals."
            ) from error

    def _problem(self, status: int, body: bytes) -> Exception:
        try:
            said = msgspec.json.decode(body, type=_Problem)
        except msgspec.MsgspecError:
            said = _Problem()
        message = said.detail or said.title or f"HTTP status {status}"
        if status >= 500:
            return Unreachable(f"{self.url} is not in working order: {message.rstrip('.')}")
        reason = said.reason or said.type.rpartition("/")[2]
        if status in (401, 403):
            reason = "unauthorised" if status == 401 else "forbidden"
        return Refused(status, reason or "broken", message)

    def _ask(self, target: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        return self._exchange(*self._request(target, headers))

    def _request(self, target: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
        """Return the path and the headers of a request, with the token."""
        token = self._token()
        wanted = {"Accept": "application/json", **headers}
        if token:
            wanted["Authorization"] = f"Bearer {token}"
        return self._parts.path.rstrip("/") + target, wanted

    def _over_http(
        self, target: str, headers: Mapping[str, str], method: str = "GET", content: bytes = b""
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._connection()
        try:
            connection.request(method, target, content or None, dict(headers))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return response.status, named, response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = str(error) or type(error).__name__
            raise Unreachable(f"The collector at {self.url} does not answer: {said}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        options: dict[str, Any] = {"port": self._parts.port, "timeout": self._timeout_s}
        host = str(self._parts.hostname)
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, context=context, **options)
        return http.client.HTTPConnection(host, **options)


def _target(base: str, path: str, query: Mapping[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{base}{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")


def run_path(run: str) -> str:
    """Return a run's path below /api/v1; any name is allowed."""
    name = quote(run, safe="")
    # "." and ".." would be resolved away as path segments.
    return f"/runs/{name.replace('.', '%2E') if set(run) <= {'.'} else name}"
