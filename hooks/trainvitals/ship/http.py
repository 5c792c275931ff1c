"""One exchange with the collector, with a deadline that holds.

`http.client` on purpose: no redirects, no proxies, no `.netrc`. A socket's time-out alone never
fires on an answer that drips, so the whole exchange has one absolute deadline.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from trainvitals.wire import CONTENT_TYPE

ANSWER_BYTES_MAX: Final = 64 * 1024
POISON: Final = frozenset({400, 404, 409, 413, 415, 422})


@dataclass(frozen=True)
class Acknowledged:
    """The batch is on the collector's disk."""


@dataclass(frozen=True)
class Refused:
    """The collector will never take this batch."""

    reason: str


@dataclass(frozen=True)
class Unauthorised:
    """The token is missing, wrong or may not send."""

    reason: str


@dataclass(frozen=True)
class Away:
    """Nobody took it this time: try again, not before `after_s` when that is said."""

    reason: str
    after_s: float | None = None


Outcome = Acknowledged | Refused | Unauthorised | Away


@dataclass(frozen=True)
class Address:
    """Where the collector listens."""

    scheme: str
    host: str
    port: int
    path: str


def parse_url(url: str) -> Address:
    """Return the parts of a collector's URL.

    Raises:
        ValueError: it is no http or https URL with a host; the message says what was expected.
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


def post(
    address: Address, token: str, body: bytes, *, source: bytes, seq: int, deadline_s: float
) -> Outcome:
    """Send one batch; whatever happens is an Outcome."""
    end = time.monotonic() + deadline_s
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=max(0.01, deadline_s))
    try:
        connection.request(
            "POST",
            f"{address.path}/api/v1/ingest",
            body,
            {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {token}"},
        )
        # The status line may drip too: from here on each read gets what is left of the deadline.
        _arm(connection.sock, end)
        response = connection.getresponse()
        answer = _read(response, connection.sock, end)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Away(f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    return _outcome(response, answer, source=source, seq=seq)


def _arm(sock: socket.socket | None, end: float) -> None:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the exchange took longer than its deadline")
    if sock is not None:
        sock.settimeout(left)


def _read(response: http.client.HTTPResponse, sock: socket.socket | None, end: float) -> bytes:
    answer = b""
    while len(answer) < ANSWER_BYTES_MAX:
        _arm(sock, end)
        part = response.read1(ANSWER_BYTES_MAX - len(answer))
        if not part:
            break
        answer += part
    return answer


def _outcome(
    response: http.client.HTTPResponse, answer: bytes, *, source: bytes, seq: int
) -> Outcome:
    status = response.status
    if status == 200:
        try:
            said = json.loads(answer)
            named = (said["source"], said["seq"]) == (source.hex(), seq)
        except (ValueError, KeyError, TypeError):
            named = False
        return Acknowledged() if named else Away("the answer does not acknowledge this batch")
    reason = f"{status} {response.reason}: {answer[:300].decode(errors='replace')}"
    if status in {401, 403}:
        return Unauthorised(reason)
    if status in POISON:
        return Refused(reason)
    after = response.getheader("Retry-After", "")
    return Away(reason, float(after) if after.isdecimal() else None)
