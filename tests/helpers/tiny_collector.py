"""A collector small enough to misbehave on purpose."""

import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from trainvitals.wire import Batch, decode

PROBLEMS = {"malformed": 400, "unknown_layout": 400, "conflict": 409, "too_large": 413}
"""The collector's own refusals that `behave` may name."""


class TinyCollector:
    """Keeps the batches it acknowledged, in the order they came; `behave` says how it answers."""

    def __init__(self, port: int = 0) -> None:
        self.batches: list[Batch] = []
        self.requests = 0
        """Batches that were sent."""
        self.probes = 0
        """Requests without a batch."""
        self.probed = 0
        """The status of every answer to a probe; 0: as `behave` says."""
        self.tokens: list[str] = []
        self.bodies: list[int] = []
        """Bytes of each body, unpacked."""
        self.behave = "well"
        self.is_poison: Callable[[object], bool] = lambda record: False
        self._seen: set[tuple[bytes, int]] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.tokens.append(self.headers.get("Authorization", ""))
                if self.headers.get("Content-Encoding") == "deflate":
                    body = zlib.decompress(body)
                outer.bodies.append(len(body))
                outer.answer(self, decode(body))

            def do_GET(self) -> None:
                outer.probes += 1
                if outer.probed:
                    outer.say(self, outer.probed, b"from a proxy")
                elif not outer.misbehaves(self):
                    outer.say(self, 200, b"{}")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def misbehaves(self, handler: BaseHTTPRequestHandler) -> bool:
        """Whether the request was answered as no batch and no probe should be."""
        behave = self.behave
        if behave == "hole":
            time.sleep(15)
        elif behave == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handler.connection.close()
        elif behave == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b" " * 100:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.1)
        elif behave == "garbage":
            self.say(handler, 200, b"<html>welcome</html>")
        elif behave.isdecimal():
            self.say(handler, int(behave), b"told to")
        else:
            return False
        return True

    def answer(self, handler: BaseHTTPRequestHandler, batch: Batch) -> None:
        behave = self.behave
        if self.misbehaves(handler):
            return
        if behave == "commits, but the answer is lost":
            self.keep(batch)
            handler.connection.close()
        elif behave in PROBLEMS:
            self.refuse(handler, behave)
        elif any(self.is_poison(record) for record in batch.records):
            self.refuse(handler, "malformed")
        else:
            self.keep(batch)
            ack = {"source": batch.source.hex(), "seq": batch.seq, "stored": True}
            self.say(handler, 200, json.dumps(ack).encode())

    def keep(self, batch: Batch) -> None:
        if (batch.source, batch.seq) not in self._seen:
            self._seen.add((batch.source, batch.seq))
            self.batches.append(batch)

    def refuse(self, handler: BaseHTTPRequestHandler, reason: str) -> None:
        problem = {"type": f"/problems/{reason}", "reason": reason}
        body = json.dumps(problem).encode()
        self.say(handler, PROBLEMS[reason], body, "application/problem+json")

    def say(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = ""
    ) -> None:
        handler.send_response(status)
        if kind:
            handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def records(self, kind: type) -> list[object]:
        """Return the records of one kind that were acknowledged, in order."""
        return [r for b in self.batches for r in b.records if isinstance(r, kind)]

    def steps(self) -> list[int]:
        """Return the steps of all frames acknowledged, in order."""
        from trainvitals.wire import Frame

        return [int(s) for f in self.records(Frame) for s in f.steps]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def tiny_collector(behave: str = "well", port: int = 0) -> Iterator[TinyCollector]:
    """Yield a running collector."""
    collector = TinyCollector(port)
    collector.behave = behave
    try:
        yield collector
    finally:
        collector.stop()
