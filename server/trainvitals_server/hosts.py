"""Refuse requests with a Host header that is not allowed (protection against DNS rebinding).

A web page can let its own host name resolve to 127.0.0.1 and then read local servers, but it
cannot set another Host header. A collector on the loopback accepts only the loopback's names.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from trainvitals_server.problems import problem_response
from trainvitals_server.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostAllowList:
    """ASGI middleware; an empty list allows every name."""

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan" or not self._allowed or _host(scope) in self._allowed:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = problem_response(
                "host", "Add this name to TRAINVITALS_ALLOWED_HOSTS to serve it."
            )
            await refusal(scope, receive, send)


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Return the allowed names: on the loopback its own; elsewhere those set, or all (empty)."""
    mine = frozenset(name.lower() for name in settings.allowed_hosts)
    if settings.is_loopback:
        return mine | LOOPBACK_NAMES
    return mine | LOOPBACK_NAMES if mine else mine


def _host(scope: Scope) -> str:
    headers = dict(scope["headers"])
    host: str = headers.get(b"host", b"").decode("latin-1").lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]
