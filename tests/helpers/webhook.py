"""A real HTTP server on a free loopback port that records what is posted to it."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Posted:
    """One POST: its path, its headers in lower case, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Webhook:
    """The server's address and what it has received."""

    url: str
    received: list[Posted] = field(default_factory=list)
    status: int = 200
    """The status of the next responses."""
    delay_s: float = 0.0

    def until(
        self, wanted: Callable[[list[Posted]], bool], *, within_s: float = 30.0
    ) -> list[Posted]:
        """Return what was received as soon as `wanted` holds."""
        deadline = time.monotonic() + within_s
        while not wanted(self.received):
            assert time.monotonic() < deadline, [p.body for p in self.received]
            time.sleep(0.02)
        return list(self.received)


@contextlib.contextmanager
def running_webhook() -> Iterator[Webhook]:
    """Yield a server that answers every POST."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            hook.received.append(Posted(self.path, headers, body, time.time()))
            time.sleep(hook.delay_s)
            self.send_response(hook.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hook = Webhook(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hook
        finally:
            server.shutdown()
            thread.join(10)
