"""TCP ports for servers of tests that cannot be started on port 0."""

import contextlib
import secrets
import socket

LOWEST, HIGHEST = 10_000, 32_767
"""Linux chooses from 32,768 on."""


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1 that Linux does not choose for others.

    A port that Linux chose for us can be chosen again, for a connection or a server of another
    test, before the server of this test listens on it.
    """
    while True:
        # Not with `random`: tests that set its seed would choose the same ports.
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST + 1)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
