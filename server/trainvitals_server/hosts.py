"""Refuse requests with a Host header that is not allowed (protection against DNS rebinding).

A request with more than one Host header is refused too: a proxy and the collector could read
different ones.

A web page can let its own host name resolve to 127.0.0.1 and then read local servers, but it
cannot set another Host header. A collector on the loopback accepts only the loopback's names.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from trainvitals_server.problems import problem_response
from trainvitals_server.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostAllowList:
    """ASGI middleware; an empty list allows every name. `count` is called for each refusal."""

    def __init__(self, app: ASGIApp, allowed: frozenset[str], count: Callable[[str], None]) -> None:
        self._app = app
        self._allowed = allowed
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1:
            detail = "The request has more than one Host header."
        elif self._allowed and _name(hosts) not in self._allowed:
            detail = "Add this name to TRAINVITALS_ALLOWED_HOSTS to serve it."
        else:
            await self._app(scope, receive, send)
            return
        self._count("host")
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await problem_response("host", detail)(scope, receive, send)


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Return the allowed names: on the loopback its own; elsewhere those set, or all (empty)."""
    mine = frozenset(name.lower() for name in settings.allowed_hosts)
    if settings.is_loopback:
        return mine | LOOPBACK_NAMES
    return mine | LOOPBACK_NAMES if mine else mine


def _name(hosts: list[bytes]) -> str:
    host = hosts[0].decode("latin-1").lower() if hosts else ""
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]
