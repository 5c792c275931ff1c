"""Send batches to the collector over HTTP, with an absolute deadline for each exchange.

Comes in: a batch's bytes and its key. Goes out: an `Outcome`; nothing is raised.
Promise:  no redirects, no proxies and no `.netrc`; connecting, sending, and reading headers and
          body end at the deadline, also if the response arrives byte by byte.
Start at `Link.post`; a link keeps its connection for the next batch. After failures it first asks,
without the batch, whether the collector is ready.
Only a problem (application/problem+json) of a known type from the collector
rejects a batch permanently. Any other response may come from a proxy in between.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import select
import socket
import ssl
import time
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from trainvitals.wire import CONTENT_TYPE

ANSWER_BYTES_MAX: Final = 64 * 1024
RETRY_AFTER_S_MAX: Final = 60.0
COMPRESSED_FROM_BYTES: Final = 3 * 2**19
"""Larger bodies are compressed: a collector accepts 2 MiB compressed and 8 MiB uncompressed."""
PROBLEM_TYPE: Final = "application/problem+json"
REJECTED_PARTS: Final = frozenset(
    {
        "malformed",
        "unknown_layout",
        "shape_mismatch",
        "too_large",
        "too_many_series",
        "unsupported_media_type",
        "invalid",
    }
)
"""Reasons that apply to a part of a batch: the collector may store the other parts."""
REJECTED_WHOLE: Final = frozenset({"conflict", "run_deleted", "run_in_other_project"})
"""Reasons that concern the batch's key or run: they apply to each part of it too."""
INGEST_PATH: Final = "/api/v1/ingest"
READY_PATH: Final = "/api/v1/ingest/ready"
_REJECTED_STATUS: Final = frozenset({400, 409, 413, 415, 422})
_SEND_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Acknowledged:
    """The collector has stored the batch on disk."""


@dataclass(frozen=True)
class Rejected:
    """The collector rejects this batch permanently. `code` is its stable reason."""

    code: str
    reason: str

    @property
    def divisible(self) -> bool:
        """Whether the collector may store parts of the batch."""
        return self.code in REJECTED_PARTS


@dataclass(frozen=True)
class Unauthorised:
    """The token is missing, wrong or has no permission to send."""

    reason: str


@dataclass(frozen=True)
class Away:
    """The batch was not delivered. Try again, after `after_s` seconds if given."""

    reason: str
    after_s: float | None = None


Outcome = Acknowledged | Rejected | Unauthorised | Away


@dataclass(frozen=True)
class Address:
    """The address of a collector."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The normalised URL: a spool stores it, and is delivered to no other collector."""
        return f"{self.scheme}://{self.host}:{self.port}{self.path}"


def parse_url(url: str) -> Address:
    """Return the parts of a collector's URL.

    Raises:
        ValueError: it is not an http or https URL with a host.
    """
    expected = "A collector's address looks like http://127.0.0.1:8321"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{expected}; got {url[:80]!r} ({error}).") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{expected}; got {url[:80]!r}.")
    if parts.username or parts.password:
        raise ValueError(f"{expected}, without a password: tokens are read from the token file.")
    default = 443 if parts.scheme == "https" else 80
    return Address(parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))


def post(address: Address, token: str, body: bytes, **options: Any) -> Outcome:
    """Send one batch over a connection of its own; `options` as for `Link.post`."""
    with Link() as link:
        return link.post(address, token, body, **options)


class Link:
    """The connection of one thread to a collector, kept between exchanges until `close`.

    A kept connection that was closed at the other end is opened again, once, within the deadline:
    a batch that arrives twice is stored once.
    """

    def __init__(self) -> None:
        self._connection: _Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next exchange opens another. Safe to call twice.

        In a forked child it closes the child's descriptor only.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end()

    def post(
        self,
        address: Address,
        token: str,
        body: bytes,
        *,
        source: bytes,
        seq: int,
        deadline_s: float,
        probes: bool = False,
    ) -> Outcome:
        """Send one batch within `deadline_s` seconds; every error is an Outcome.

        `probes`: send the batch, which can be 2 MiB, only after a request without a body has shown
        that the collector can store it.
        """
        end = time.monotonic() + deadline_s
        authorised = {"Authorization": f"Bearer {token}"}
        if probes and (refusal := self._probe(address, authorised, end)) is not None:
            return refusal
        headers = {"Content-Type": CONTENT_TYPE, **authorised}
        if len(body) > COMPRESSED_FROM_BYTES:
            body = zlib.compress(body, 1)
            headers["Content-Encoding"] = "deflate"
        answered = self._exchange(address, end, "POST", INGEST_PATH, headers, body)
        outcome = (
            answered if isinstance(answered, Away) else _outcome(*answered, source=source, seq=seq)
        )
        if isinstance(outcome, Away):
            self.close()  # the next answer on it may belong to an earlier request
        return outcome

    def _probe(
        self, address: Address, headers: dict[str, str], end: float
    ) -> Away | Unauthorised | None:
        """Ask whether the collector can store batches; return why not, or None.

        None also for an answer that does not say: it may come from a proxy that lets only batches
        pass.
        """
        answered = self._exchange(address, end, "GET", READY_PATH, headers)
        if isinstance(answered, Away):
            return answered
        response, answer = answered
        if _problem(response, answer) in {"unauthorised", "forbidden"}:
            return Unauthorised(_reason(response, answer))
        is_busy = response.status in {408, 425, 429} or response.status >= 500
        return _away(response, answer) if is_busy and response.status != 501 else None

    def _exchange(
        self,
        address: Address,
        end: float,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes] | Away:
        """Send one request; return the response and the first bytes of its body."""
        kept = self._connection
        try:
            if kept is not None and kept.address == address and kept.is_open:
                kept.expiry.end = end
                # The other end may close it in this moment.
                with contextlib.suppress(ConnectionError):
                    return self._answer(kept, method, path, headers, body)
            self.close()
            self._connection = _Connection(address, end)
            return self._answer(self._connection, method, path, headers, body)
        # ValueError: a token or a response with characters that are not valid in HTTP.
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Away(f"{type(error).__name__}: {error}")

    def _answer(
        self,
        connection: _Connection,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        complete = False
        try:
            connection.request(method, connection.address.path + path, body, headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX)
            complete = response.isclosed() and not response.will_close
        finally:
            if not complete:
                self.close()
        return response, answer


@dataclass
class _Expiry:
    """The deadline of the current exchange, in seconds of the monotonic clock."""

    end: float

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError when there are none."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the exchange took longer than its deadline")
        return left


class _Connection(http.client.HTTPConnection):
    """A connection whose operations end at `expiry`."""

    def __init__(self, address: Address, end: float) -> None:
        super().__init__(address.host, address.port)
        self.address = address
        self.expiry = _Expiry(end)
        self._opened: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Whether the socket is open, and the other end has neither closed it nor sent anything."""
        if self._opened is None or self._opened.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._opened, select.POLLIN)
        return not poll.poll(0)

    def end(self) -> None:
        """Close the connection and its socket."""
        self.close()
        if self._opened is not None:
            self._opened.close()

    def connect(self) -> None:
        """Connect to the first of the host's addresses that answers."""
        host, port = self.address.host, self.address.port
        failure: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, at in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.expiry.left())
                sock.connect(at)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.address.scheme == "https":
                    sock.settimeout(self.expiry.left())
                    context = ssl.create_default_context()
                    sock = context.wrap_socket(sock, server_hostname=host)
            except OSError as error:
                sock.close()
                failure = error
                continue
            self._opened = sock
            self.sock: Any = _DeadlineSocket(sock, self.expiry)
            return
        raise failure


class _DeadlineSocket:
    """The methods of a socket that `http.client` uses; each times out at `expiry`."""

    def __init__(self, sock: socket.socket, expiry: _Expiry) -> None:
        self._sock = sock
        self._expiry = expiry

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        for at in range(0, len(view), _SEND_BYTES):
            self._sock.settimeout(self._expiry.left())
            self._sock.sendall(view[at : at + _SEND_BYTES])

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock, self._expiry))

    def close(self) -> None:
        # `http.client` calls this before it reads the body; `_Connection.end` closes the socket.
        pass


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, expiry: _Expiry) -> None:
        self._sock = sock
        self._expiry = expiry

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._expiry.left())
        return self._sock.recv_into(buffer)


def _outcome(
    response: http.client.HTTPResponse, answer: bytes, *, source: bytes, seq: int
) -> Outcome:
    status = response.status
    if status == 200:
        fields = _object(answer)
        named = (fields.get("source"), fields.get("seq")) == (source.hex(), seq)
        return Acknowledged() if named else Away("the response does not acknowledge this batch")
    if status in {401, 403}:
        return Unauthorised(_reason(response, answer))
    if status in _REJECTED_STATUS:
        code = _problem(response, answer)
        if code in REJECTED_PARTS or code in REJECTED_WHOLE:
            return Rejected(code, _reason(response, answer))
    return _away(response, answer)


def _reason(response: http.client.HTTPResponse, answer: bytes) -> str:
    return f"{response.status} {response.reason}: {answer[:300].decode(errors='replace')}"


def _away(response: http.client.HTTPResponse, answer: bytes) -> Away:
    after = response.getheader("Retry-After", "")
    # At most 20 digits: Python raises for integers with thousands of digits.
    seconds = float(after[:20]) if after.isdecimal() else None
    after_s = None if seconds is None else min(seconds, RETRY_AFTER_S_MAX)
    return Away(_reason(response, answer), after_s)


def _problem(response: http.client.HTTPResponse, answer: bytes) -> str:
    """Return the code of a problem from the collector; "" for any other response."""
    media_type = response.getheader("Content-Type", "").partition(";")[0].strip().lower()
    kind = _object(answer).get("type") if media_type == PROBLEM_TYPE else None
    known = isinstance(kind, str) and kind.startswith("/problems/")
    return str(kind).removeprefix("/problems/") if known else ""


def _object(answer: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
