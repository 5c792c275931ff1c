"""A TCP relay between a training process and its collector that misbehaves as it is told.

Start at `ToxicRelay`; `MISBEHAVIOURS` are the names of what it can do.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from typing import Final

MISBEHAVIOURS: Final = (
    "refuse",
    "hole",
    "drip",
    "reset",
    "cut",
    "delay",
    "garbage",
    "redirect",
    "duplicate",
    "storm",
)
DELAY_S: Final = 0.1
DRIP_S: Final = 0.02
_STORM: Final = ("500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable")


class ToxicRelay:
    """Forwards requests to a port of this machine, and misbehaves as `behave` says."""

    def __init__(self, target: int, seed: int = 0) -> None:
        self.seen: Counter[str] = Counter()
        """Connections of each behaviour; a refused one is not seen."""
        self.behaviour = "well"
        self._target = target
        self._random = random.Random(seed)
        self._changed = threading.Event()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """The address that forwards."""
        return f"http://127.0.0.1:{self.port}"

    def behave(self, behaviour: str) -> None:
        """Behave well, or in one of MISBEHAVIOURS; held connections end."""
        was, self.behaviour = self.behaviour, behaviour
        self._changed.set()
        self._changed = threading.Event()
        if behaviour == "refuse":
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        elif was == "refuse":
            self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return  # it refuses
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        behaviour = self.behaviour
        self.seen[behaviour] += 1
        # The other side may close the connection at any time.
        with near, contextlib.suppress(OSError):
            near.settimeout(30)
            if behaviour == "hole":
                self._changed.wait(30)
            elif behaviour == "reset":
                near.recv(1 + self._random.randrange(2000))
                reset(near)
            else:
                self._answer(near, behaviour, message(near))

    def _answer(self, near: socket.socket, behaviour: str, request: bytes) -> None:
        match behaviour:
            case "garbage":
                near.sendall(self._random.randbytes(400))
            case "redirect":
                near.sendall(answer("302 Found", "Location: http://127.0.0.1:9/"))
            case "storm":
                near.sendall(answer(_STORM[self.seen[behaviour] % len(_STORM)]))
            case "cut":
                near.sendall(self._forward(request)[:20])
            case "drip":
                for byte in self._forward(request):
                    near.sendall(bytes([byte]))
                    time.sleep(DRIP_S)
            case "duplicate":
                self._forward(request)
                near.sendall(self._forward(request))
            case "delay":
                time.sleep(DELAY_S)
                answered = self._forward(request)
                time.sleep(DELAY_S)
                near.sendall(answered)
            case _:
                near.sendall(self._forward(request))

    def _forward(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self._target), timeout=30) as far:
            far.sendall(request)
            return message(far)


def reset(connection: socket.socket) -> None:
    """Close a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def answer(status: str, *headers: str) -> bytes:
    """Return an answer of HTTP without a body."""
    lines = [f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode()


def message(connection: socket.socket) -> bytes:
    """Read one request or answer of HTTP, with the body that its Content-Length announces."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _received(connection)
    head, _, _ = received.partition(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    while len(received) < len(head) + 4 + sum(lengths):
        received += _received(connection)
    return received


def _received(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise ConnectionResetError("the connection was closed in the middle of a message")
    return piece
