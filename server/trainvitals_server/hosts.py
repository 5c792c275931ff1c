"""Refuse requests with a Host header that is not allowed (protection against DNS rebinding).

A web page can let its own host name resolve to 127.0.0.1 and then read local servers, but it
cannot set another Host header. A collector on the loopback accepts only the loopback's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from trainvitals_server.problems import problem_response
from trainvitals_server.settings import Settings

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST: Final = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:]*)(:[0-9]*)?")


class HostAllowList:
    """ASGI middleware; an empty list allows every name, but never two Host headers.

    `count` is called for each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed: frozenset[str],
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._allowed = allowed
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan" or (reason := self._refusal(scope)) is None:
            await self._app(scope, receive, send)
            return
        self._count("host")
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await problem_response("host", reason)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        if len(hosts) > 1:
            return "A request must have one Host header (RFC 9112, section 3.2)."
        if self._allowed and host_name(hosts[0] if hosts else b"") not in self._allowed:
            return "Add this name to TRAINVITALS_ALLOWED_HOSTS to serve it."
        return None


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Return the allowed names: on the loopback its own; elsewhere those set, or all (empty)."""
    mine = frozenset(name.lower() for name in settings.allowed_hosts)
    if settings.is_loopback:
        return mine | LOOPBACK_NAMES
    return mine | LOOPBACK_NAMES if mine else mine


def host_name(header: bytes) -> str:
    """Return the name in a Host header in lower case, without its port; "" if it has no name.

    An IPv6 address keeps its brackets. The port may be empty, as RFC 3986 allows.
    """
    parts = HOST.fullmatch(header.decode("latin-1").lower())
    return parts["name"] if parts else ""
