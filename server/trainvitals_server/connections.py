"""The HTTP protocol of the collector: uvicorn's, with a request deadline and limits.

Comes in: the bytes of a connection. Goes out: requests to the app; problems for what is refused
          before the app is asked.
Promise:  a request arrives completely within `deadline_s` of its first byte (the first request of a
          connection: of the accept), or its connection is closed at most `GRACE_S` later. Headers
          are limited in bytes before they are stored. Connections that wait for their client do not
          count as busy, so they do not reduce the capacity for other requests.
Start at `protocol_class`. uvicorn itself has no deadline, and its limit of header bytes applies to
h11 only.
"""

from __future__ import annotations

import asyncio
import resource
from asyncio import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trainvitals_server.problems import problem_response

GRACE_S: Final = 1.0
"""Seconds after the deadline in which the app can answer before the connection is closed."""
WRITE_STALL_S: Final = 30.0
"""Seconds for which a client may leave a full write buffer unread."""
_OPEN_PER_BUSY: Final = 5
_FILES_RESERVED: Final = 128
"""File descriptors that are left for databases, logs and listeners."""


@dataclass
class ConnectionTable:
    """The connections of one server, and their limits. Used in the event loop only."""

    deadline_s: float
    header_bytes_max: int
    message_bytes_max: int
    """Bytes of a request after its headers, chunk headers and trailers included."""
    busy_max: int
    """Requests that are completely received and not answered yet."""
    count: Callable[[str], None]
    """Called with the reason of each refusal."""
    busy: set[_Request] = field(default_factory=set)
    """Requests that are completely received and not answered yet, also of clients that left."""
    connections: dict[BoundedProtocol, None] = field(default_factory=dict)
    """The open connections, those that were not used for longest first."""

    @property
    def open_max(self) -> int:
        """Maximum number of open connections; more would exhaust the file descriptors."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = 2**20 if soft == resource.RLIM_INFINITY else soft
        return max(8, min(_OPEN_PER_BUSY * self.busy_max, files - _FILES_RESERVED))

    def admit(self, connection: BoundedProtocol) -> None:
        """Add a connection; close the one that waits longest when there are too many."""
        self.used(connection)
        if len(self.connections) > self.open_max:
            oldest = next((c for c in self.connections if not c.is_busy), connection)
            del self.connections[oldest]
            oldest.transport.abort()

    def used(self, connection: BoundedProtocol) -> None:
        """Move a connection to the end of those that may be closed."""
        self.connections.pop(connection, None)
        self.connections[connection] = None


class _Request:
    """One request, from its headers to the end of its answer."""

    done = False


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `table` is set by `protocol_class`."""

    table: ConnectionTable

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._app = self.app
        self._deadline: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self._in_headers = True
        self._bytes = 0
        """Received bytes of the headers, then of the rest of the message."""
        self._upgraded = False
        self._request = _Request()
        self._unstarted: set[_Request] = set()
        """Requests that wait for the answer of an earlier request on this connection."""

    @property
    def is_busy(self) -> bool:
        """Whether a complete request of this connection is being answered."""
        return self._request in self.table.busy

    # --- the connection ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request."""
        super().connection_made(transport)
        self.table.admit(self)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        self._stop_deadline()
        self.resume_writing()
        self.table.connections.pop(self, None)
        self.table.busy -= self._unstarted

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; the limits of HTTP requests end here."""
        self._upgraded = True
        self._leave()
        super().handle_websocket_upgrade()

    # --- bytes in ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse `data` in parts, so that headers beyond their limit are never stored."""
        if self._deadline is None:
            self._start_deadline()
        while data and not self._upgraded and not self.transport.is_closing():
            limit = (
                self.table.header_bytes_max if self._in_headers else self.table.message_bytes_max
            )
            room = limit - self._bytes
            if room <= 0:
                self._refuse("headers_too_large" if self._in_headers else "too_large")
                return
            part, data = data[:room], data[room:]
            self._bytes += len(part)
            super().data_received(part)

    def on_message_begin(self) -> None:
        """Give the app the deadline of the request."""
        if self._deadline is None:
            self._start_deadline()
        super().on_message_begin()
        assert self._deadline is not None  # noqa: S101 - started above; for mypy
        self.scope["state"]["deadline"] = self._deadline.when()

    def on_headers_complete(self) -> None:
        """Refuse the request when too many others are being answered."""
        self._in_headers = False
        self._bytes = 0
        request = self._request = _Request()
        busy = self.table.busy
        app = self._app if len(busy) < self.table.busy_max else self._busy
        unstarted = self._unstarted
        unstarted.add(request)

        async def answered(scope: Scope, receive: Receive, send: Send) -> None:
            unstarted.discard(request)
            try:
                await app(scope, receive, send)
            finally:
                request.done = True
                busy.discard(request)

        self.app = answered
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the deadline: the request is complete."""
        super().on_message_complete()
        self._in_headers = True
        self._bytes = 0
        self._stop_deadline()
        upgrades = self.parser.should_upgrade() and self._should_upgrade()
        if not self._request.done and not upgrades:
            self.table.busy.add(self._request)

    def on_response_complete(self) -> None:
        """Note the use of the connection."""
        if self in self.table.connections:
            self.table.used(self)
        super().on_response_complete()

    # --- deadlines ---------------------------------------------------------------------------

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.table.deadline_s, self._late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if not self._in_headers:
            # The app has the same deadline and answers now; close even when it does not.
            self._deadline = self.loop.call_later(GRACE_S, self.transport.abort)
        elif self._bytes:
            self._refuse("timeout")
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """Close the connection when its client does not read the answer."""
        super().pause_writing()
        self._stalled = self.loop.call_later(WRITE_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer of `pause_writing`."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    # --- refusals ----------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Answer a request that is not HTTP."""
        self._refuse("bad_request")

    def _refuse(self, reason: str) -> None:
        self.table.count(reason)
        cycle = self.cycle
        answered = cycle is None or cycle.response_complete
        if self._in_headers if answered else not cycle.response_started:
            self.transport.write(_raw(reason, self.server_state.default_headers))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the app must not write a second answer
            cycle.message_event.set()
        self.transport.close()
        # A client that does not read keeps the buffer full, and a plain close waits for it.
        self._stop_deadline()
        self._deadline = self.loop.call_later(GRACE_S, self.transport.abort)

    async def _busy(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.table.count("busy")
        answer = problem_response("busy", _DETAILS["busy"], {"Retry-After": "1"})
        await answer(scope, receive, send)


_DETAILS: Final = {
    "timeout": "The request did not arrive within the collector's deadline. Send it again.",
    "headers_too_large": "The headers of the request exceed the collector's limit.",
    "too_large": "The body of the request exceeds the collector's limit.",
    "bad_request": "The request is not valid HTTP.",
    "busy": "The collector answers as many requests as it may. Send it again in a second.",
}


def _raw(reason: str, defaults: list[tuple[bytes, bytes]]) -> bytes:
    """Return a whole HTTP/1.1 answer."""
    answer = problem_response(reason, _DETAILS[reason])
    headers = [*defaults, *answer.raw_headers, (b"connection", b"close")]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 %d \r\n%b\r\n%b" % (answer.status_code, lines, bytes(answer.body))


def protocol_class(table: ConnectionTable) -> type[BoundedProtocol]:
    """Return the protocol class for `uvicorn.Config(http=)`."""
    return type("CollectorProtocol", (BoundedProtocol,), {"table": table})
