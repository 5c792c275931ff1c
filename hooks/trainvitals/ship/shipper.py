"""The side of delivery that the training sees: `put`, which appends, and `close`."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from trainvitals.ship.buffer import Buffer
from trainvitals.ship.http import parse_url
from trainvitals.ship.sender import Identity, Sender
from trainvitals.ship.status import ShipStatus
from trainvitals.wire import Record

log = logging.getLogger("trainvitals")

QUEUE_BYTES_MAX: Final = 16 * 2**20
SPOOL_BYTES_MAX: Final = 256 * 2**20
INTERVAL_S: Final = 0.5


class Shipper:
    """Sends one process's records in a background thread. `cpu_s` is what that thread used.

    Raises ValueError for a URL that is none; afterwards nothing here raises or waits, but `close`,
    which waits as long as it is told to.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str | Callable[[], str],
        run: str,
        project: str,
        spool_dir: Path,
        rank: int = 0,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        **seams: Any,
    ) -> None:
        address = parse_url(url)
        self.source = secrets.token_bytes(16)
        self.cpu_s = 0.0
        self._buffer = Buffer(queue_bytes_max)
        self._sender = Sender(
            Identity(run, project, self.source, rank),
            address,
            (lambda: token) if isinstance(token, str) else token,
            self._buffer,
            spool_dir,
            spool_bytes_max,
            **seams,
        )
        self._closed = False
        self._until: float | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trainvitals-ship", daemon=True)
        self._thread.start()

    @property
    def status(self) -> ShipStatus:
        """How delivery stands; updated after each turn of the thread."""
        return self._sender.status

    def put(self, record: Record) -> None:
        """Hand a record over: one append, in the training thread."""
        if not self._closed:
            self._buffer.put(record)

    def close(self, deadline_s: float = 2.0) -> None:
        """Send what waits within the deadline; spool the rest. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        end = time.monotonic() + deadline_s
        self._until = end - 0.2 * deadline_s
        self._wake.set()
        self._thread.join(max(0.0, end - time.monotonic() - 0.1 * deadline_s))
        if self._thread.is_alive():
            # An exchange is under way and may take longer than we have. The thread is a daemon
            # and touches the disk only under the lock; a batch kept twice is counted once.
            if (batch := self._sender.in_flight) is not None:
                self._sender.keep(batch)
            self._sender.keep_all()
        self._sender.close()

    def forget(self) -> None:
        """In a forked child: off, with the descriptors closed."""
        self._closed = True
        self._sender.forget()

    def _run(self) -> None:
        while True:
            self._wake.wait(INTERVAL_S)
            started = time.thread_time()
            try:
                self._sender.turn(until=self._until)
            except Exception:
                log.exception("Delivery failed; the training goes on, and nothing more is sent.")
                self._closed = True
                return
            self.cpu_s += time.thread_time() - started
            if self._closed:
                return
