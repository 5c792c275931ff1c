"""The network of a simulation: requests and answers that are lost, late, repeated or cut off.

Comes in: `Link._exchange` of the trainers, with `Network.exchange` in its place.
Goes out: requests to a collector, `receive(path, body, answer)`; each may arrive twice or never.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from helpers.simulated_threads import World
from trainvitals.ship.http import Address, Away

LATE_S = 40.0
"""A late message arrives up to this long after it was sent; an exchange ends after 10 s."""


@dataclass(frozen=True)
class Response:
    """What the trainers read of an `http.client.HTTPResponse`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    reason: str = ""

    def getheader(self, name: str, default: str = "") -> str:
        return self.headers.get(name, default)


Answer = Callable[[Response | None], None]
"""Takes a response; None when the connection ends without one."""
PROXY = (
    Response(502, body=b"<html>Bad Gateway</html>"),
    Response(200, body=b"<html>Log in</html>"),
    Response(404),
    Response(503, {"Retry-After": "2"}),
)


class Network:
    """Between all trainers and one collector, which changes when it is restarted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.collector: Any = None
        """None while none listens."""

    def exchange(
        self,
        address: Address,
        end: float,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> tuple[Response, bytes] | Away:
        """Send one request and wait for its answer, until `end`."""
        world = self._world
        answers: list[Response | None] = []

        def send(wake: Callable[[], None]) -> None:
            def answered(response: Response | None) -> None:
                answers.append(response)
                wake()

            self._send(path, body or b"", answered)

        if not world.wait(end - world.now, send):
            return Away("TimeoutError: the exchange took longer than its deadline")
        response = answers[0]
        if response is None:
            return Away("ConnectionResetError: the connection was reset")
        return response, response.body

    def _send(self, path: str, body: bytes, answered: Answer) -> None:
        world = self._world
        arrive = partial(self._arrive, path, body, partial(self._answer, answered))
        if world.strikes("network: a request is lost"):
            return
        if world.strikes("network: a request is reset"):
            world.after(self._delay_s(), partial(answered, None))
            return
        if world.strikes("network: a proxy answers"):
            world.after(self._delay_s(), partial(answered, world.random.choice(PROXY)))
            return
        if world.strikes("network: a request arrives twice"):
            again = partial(self._arrive, path, body, lambda _: None)
            world.after(world.random.uniform(0, LATE_S), again)
        is_late = world.strikes("network: a request is late")
        world.after(self._late_s() if is_late else self._delay_s(), arrive)

    def _arrive(self, path: str, body: bytes, answer: Answer) -> None:
        if self.collector is None:
            answer(None)
        else:
            self.collector.receive(path, body, answer)

    def _answer(self, answered: Answer, response: Response | None) -> None:
        world = self._world
        if world.strikes("network: an answer is lost"):
            return
        if world.strikes("network: an answer is reset"):
            response = None
        is_late = world.strikes("network: an answer is late")
        world.after(self._late_s() if is_late else self._delay_s(), partial(answered, response))

    def _delay_s(self) -> float:
        return self._world.random.uniform(0.0005, 0.2)

    def _late_s(self) -> float:
        return self._world.random.uniform(0.2, LATE_S)


def acknowledgement(source: bytes, seq: int, *, stored: bool) -> Response:
    """Return the answer of a collector that has stored a batch."""
    fields = {"source": source.hex(), "seq": seq, "stored": stored, "durability": "full"}
    return Response(200, {"Content-Type": "application/json"}, json.dumps(fields).encode())
